"""Files that are damaged, absent or carry code are refused, and the code is not run."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fcmae.models.card import CLASSIFIER, ENCODER, Card
from fcmae.models.storage import read_tensors, save_weights

CARD = Card(model="convnextv2_atto", options={"in_chans": 1}, class_names=("a", "é"), image_size=(48, 48))
TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "a.bias": torch.ones(20)}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_a_checkpoint_gives_its_weights_alone(wrapper: str, tmp_path: Path) -> None:
    torch.save(
        {wrapper: TENSORS, "optimizer": {"state": {0: torch.zeros(3)}}, "epoch": 3}, tmp_path / "a.pth"
    )
    tensors, card = read_tensors(tmp_path / "a.pth")
    assert card is None
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in tensors.items())


def test_a_folder_gives_the_fine_tuned_weights_first(tmp_path: Path) -> None:
    save_file({"encoder": torch.zeros(1)}, tmp_path / ENCODER)
    assert list(read_tensors(tmp_path)[0]) == ["encoder"]
    save_file({"model": torch.zeros(1)}, tmp_path / CLASSIFIER)
    assert list(read_tensors(tmp_path)[0]) == ["model"]


@pytest.mark.parametrize("averaged", [False, True])
def test_of_a_checkpoint_those_weights_are_read_that_its_card_describes(
    averaged: bool, tmp_path: Path
) -> None:
    card = replace(CARD, averaged=averaged)
    save_weights(tmp_path / CLASSIFIER, TENSORS, card)
    checkpoint = {"model": TENSORS, "ema": {"averaged": torch.ones(1)}, "epoch": 3}
    for folder in ("checkpoints", "elsewhere"):
        (tmp_path / folder).mkdir()
        torch.save(checkpoint, tmp_path / folder / "best.pt")
    tensors, found = read_tensors(tmp_path / "checkpoints" / "best.pt")
    assert (list(tensors), found) == (["averaged"] if averaged else list(TENSORS), card)
    tensors, found = read_tensors(tmp_path / "elsewhere" / "best.pt")
    assert (list(tensors), found) == (list(TENSORS), None)


def test_tensors_come_back_bit_for_bit_with_their_card(tmp_path: Path) -> None:
    strided = {
        "t": torch.arange(6.0).view(2, 3).T,
        "half": torch.ones(3).half(),
        "é": torch.zeros((), dtype=torch.int64),
    }
    for state in (TENSORS, strided, {}):
        save_weights(tmp_path / "w.safetensors", state, CARD)
        tensors, card = read_tensors(tmp_path / "w.safetensors")
        assert card == CARD
        assert tensors.keys() == state.keys()
        for name, tensor in state.items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    code = """
import pathlib, sys, torch
from fcmae.models.card import Card
from fcmae.models.storage import save_weights
known = {"mean": (0.5,), "std": (0.2,), "crop_pct": 0.9, "averaged": True}
card = Card(model="convnextv2_atto", options={"in_chans": 1}, **known)
save_weights(pathlib.Path(sys.argv[1]), {"b": torch.ones(3), "a": torch.zeros(2)}, card)
"""
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_metadata_of_others_is_left_alone(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs.safetensors", {"format": "pt", "note": "not { json"})
    assert read_tensors(tmp_path / "theirs.safetensors")[1] is None


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": TENSORS, "payload": Payload(mark)}, tmp_path / "zip.pt")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Payload(mark)))
    for name in ("zip.pt", "bare.bin"):
        with pytest.raises(ValueError, match="runs code") as refused:
            read_tensors(tmp_path / name)
        assert "weights_only" not in str(refused.value)  # torch's advice is to run it
    assert not mark.exists()
    pickle.loads((tmp_path / "bare.bin").read_bytes())
    assert mark.exists(), "the payload does nothing, so neither does this test"


def test_a_file_of_something_else_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"cat\.png: is not a file of weights$"):
        read_tensors(tmp_path / "cat.png")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(suffix: str, fraction: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=r"cannot be read|is not a file of weights"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "holds a list"), ({"epoch": 3}, "epoch is a int"), ({3: torch.zeros(1)}, "3 is a Tensor")],
)
def test_content_that_is_not_tensors_by_name(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "other.pt")


def test_paths_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such weights"):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor encoder\.safetensors"):
        read_tensors(tmp_path)
