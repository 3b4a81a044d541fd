"""A file appears whole or not at all."""

from pathlib import Path

import pytest

from fcmae.core.files import write_atomically


def test_former_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"former")
    with write_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"former"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_the_former_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"former")

    def write_half() -> None:
        with write_atomically(path) as file:
            file.write(b"ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]
