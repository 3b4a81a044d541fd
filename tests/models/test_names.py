"""Weights by name: the authors' addresses are timm's, caches are used, and a line says what is missing."""

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, list_pretrained

from fcmae import create_model, load_weights
from fcmae.core.errors import UserError
from fcmae.models import names
from fcmae.models.formats import to_timm

SIZE: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test caches of its own, and no way out."""
    names.fetch.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    yield tmp_path
    names.fetch.cache_clear()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder as the authors' site; the folder is the value."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = tmp_path / "site"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(names, "AUTHORS", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


def in_cache(cache: Path, repository: str, file: str) -> Path:
    """Return where huggingface_hub keeps a file of a repository's main branch."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    place = folder / "snapshots" / ("0" * 40) / file
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def test_the_authors_files_are_those_that_timm_names() -> None:
    configs = [get_pretrained_cfg(name) for name in list_pretrained("convnext*")]
    theirs = {config.url for config in configs if config is not None}
    assert {names.AUTHORS + file for file in names.OFFICIAL.values()} <= theirs


def test_the_authors_file_is_downloaded_once(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = create_model("convnextv2_atto", num_classes=2)
    file = published / names.OFFICIAL["convnextv2_atto_fcmae"]
    file.parent.mkdir(parents=True)
    torch.save({"model": model.state_dict()}, file)
    assert load_weights("official:convnextv2_atto_fcmae").num_classes == 2
    assert caplog.text.count("CC-BY-NC") == 1
    file.unlink()
    names.fetch.cache_clear()  # as another process would
    assert load_weights("official:convnextv2_atto_fcmae").card.model == "convnextv2_atto"


def test_a_download_that_is_cut_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published / names.OFFICIAL["convnextv2_atto_fcmae"]
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(1000))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, place, progress: Path(place).write_bytes(bytes(400))
    )
    with pytest.raises(UserError, match="400 of 1000 bytes"):
        load_weights("official:convnextv2_atto_fcmae")
    assert not list((tmp_path / "torch").rglob("*.pt"))


@pytest.mark.parametrize("name", ["timm:convnextv2_atto.fcmae", "hf:timm/convnextv2_atto.fcmae"])
def test_what_is_in_the_cache_needs_no_network(name: str, tmp_path: Path) -> None:
    state = to_timm(create_model("convnextv2_tiny", num_classes=3, **SIZE).state_dict())
    save_file(state, in_cache(tmp_path / "hub", "timm/convnextv2_atto.fcmae", "model.safetensors"))
    assert load_weights(name).num_classes == 3


def test_the_licence_is_that_of_the_model_card(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state = create_model("convnextv2_tiny", num_classes=3, **SIZE).state_dict()
    torch.save(state, in_cache(tmp_path / "hub", "someone/own", "pytorch_model.bin"))
    in_cache(tmp_path / "hub", "someone/own", "README.md").write_text("---\nlicense: wtfpl\n---\n# Own")
    assert load_weights("hf:someone/own").num_classes == 3
    assert "wtfpl" in caplog.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("official:convnextv2_tini_fcmae", "convnextv2_tiny_fcmae"),
        ("timm:convnextv2_tini.fcmae", "convnextv2_tiny.fcmae"),
        ("timm:resnet50.a1_in1k", "convnext"),
        ("timm:", "convnext"),
        ("official:convnextv2_atto_fcmae", "HF_HUB_OFFLINE"),
        ("timm:convnextv2_atto.fcmae", "timm/convnextv2_atto.fcmae"),
        ("hf:facebook/convnextv2-tiny-22k-224", "HF_HUB_OFFLINE"),
        ("hf:not a repository", "not a repository"),
        ("hf:", "hf:"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_line(name: str, told: str) -> None:
    with pytest.raises(UserError) as refused:
        load_weights(name)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_site_without_the_file(published: Path) -> None:
    with pytest.raises(UserError, match="404"):
        load_weights("official:convnextv2_atto_fcmae")
