"""Mapped arrays: what numpy wrote, shared and not copied."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcmae.data.mapped import NOT_ARRAYS, MappedArrays

ARRAYS: dict[str, Any] = {
    "bytes": np.arange(1000, dtype=np.uint8),
    "longs": np.arange(-5, 40, dtype=np.int64),
    "table": np.arange(12, dtype=np.float32).reshape(3, 4),
    "empty": np.zeros((0, 4)),
    "text": np.array("für"),
}


def test_arrays_are_those_that_were_saved_and_lie_in_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    mapped = MappedArrays(tmp_path / "a.npz")
    assert list(mapped) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(mapped[name], array)
        assert mapped[name].dtype == array.dtype
        assert isinstance(mapped[name].base, np.memmap) or name == "empty"
    with pytest.raises(ValueError, match="read-only"):
        mapped["bytes"][0] = 1


def test_what_is_no_such_file_raises_one_of_a_few_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **ARRAYS)
    content = (tmp_path / "good.npz").read_bytes()
    generator, bad = np.random.default_rng(0), tmp_path / "bad.npz"
    np.savez_compressed(tmp_path / "packed.npz", **ARRAYS)
    np.savez(tmp_path / "objects.npz", objects=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="compressed"):
        MappedArrays(tmp_path / "packed.npz")["bytes"]
    with pytest.raises(ValueError, match="objects"):
        MappedArrays(tmp_path / "objects.npz")["objects"]
    for _ in range(500):
        damaged = bytearray(content)
        for place in generator.integers(0, len(content), 3):
            damaged[place] ^= 1 << int(generator.integers(8))
        bad.write_bytes(damaged[: int(generator.integers(len(content) // 2, len(content) * 3))])
        try:
            for array in MappedArrays(bad).values():
                array.tobytes()
        except (OSError, *NOT_ARRAYS):
            continue
