"""Files that are damaged, absent or carry code are refused, and the code is not run."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fcmae.models.storage import read_tensors

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
    tensors, metadata = read_tensors(tmp_path / "a.pth")
    assert metadata == {}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in tensors.items())


def test_a_folder_gives_the_fine_tuned_weights_first(tmp_path: Path) -> None:
    save_file({"encoder": torch.zeros(1)}, tmp_path / "encoder.safetensors")
    assert list(read_tensors(tmp_path)[0]) == ["encoder"]
    save_file({"model": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert list(read_tensors(tmp_path)[0]) == ["model"]


def test_a_checkpoint_in_a_run_is_what_the_run_says_of_its_weights(tmp_path: Path) -> None:
    header = {"format": "fcmae.classifier.1", "image_size": [48, 48], "metrics": {"ema_top1": 90.0}}
    texts = {name: json.dumps(value) for name, value in header.items()}
    save_file(TENSORS, tmp_path / "model.safetensors", texts)
    checkpoint = {"model": TENSORS, "ema": {"averaged": torch.ones(1)}, "epoch": 3}
    for folder in ("checkpoints", "elsewhere"):
        (tmp_path / folder).mkdir()
        torch.save(checkpoint, tmp_path / folder / "best.pt")
    tensors, metadata = read_tensors(tmp_path / "checkpoints" / "best.pt")
    assert (list(tensors), metadata) == (["averaged"], header)
    tensors, metadata = read_tensors(tmp_path / "elsewhere" / "best.pt")
    assert (tensors.keys(), metadata) == (TENSORS.keys(), {})
    save_file(TENSORS, tmp_path / "model.safetensors", texts | {"metrics": '{"top1": 90.0}'})
    assert read_tensors(tmp_path / "checkpoints" / "best.pt")[0].keys() == TENSORS.keys()


def test_a_header_is_read_without_torch_and_only_of_a_version_that_is_known(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "new.safetensors", {"format": '"fcmae.classifier.2"'})
    code = "import sys, pathlib, models.header as h\ntry: h.read_header(pathlib.Path(sys.argv[1]))\n"
    code += "except ValueError as error: print(error)\nassert 'torch' not in sys.modules"
    words = [sys.executable, "-c", code, str(tmp_path / "new.safetensors")]
    assert "newer version" in subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_metadata_of_others_is_left_alone(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs.safetensors", {"format": "pt", "note": "not { json"})
    assert read_tensors(tmp_path / "theirs.safetensors")[1] == {}


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
    with pytest.raises(ValueError, match=r"^is not a file of weights$"):
        read_tensors(tmp_path / "cat.png")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
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
