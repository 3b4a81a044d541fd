"""Files that are damaged, absent or carry code are refused, and the code is not run."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.storage import read_tensors

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


def test_metadata_of_others_is_left_alone(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "theirs.safetensors", {"format": "pt", "note": "not { json"})
    assert read_tensors(tmp_path / "theirs.safetensors")[1] == {}


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": TENSORS, "payload": Payload(mark)}, tmp_path / "zip.pt")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Payload(mark)))
    for name in ("zip.pt", "bare.bin"):
        with pytest.raises(ValueError, match="runs code"):
            read_tensors(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / "bare.bin").read_bytes())
    assert mark.exists(), "the payload does nothing, so neither does this test"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="cannot be read"):
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
    with pytest.raises(ValueError, match="no such file or folder"):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor encoder\.safetensors"):
        read_tensors(tmp_path)
