"""A file appears whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcmae.core.files import replace_durably, write_atomically


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that put things on disk, in their order, each with what it is about."""
    recorded: list[str] = []

    def record(call: Callable[..., Any], about: Callable[..., str]) -> Callable[..., Any]:
        def recording(*args: Any) -> Any:
            result = call(*args)
            recorded.append(f"{call.__name__} {about(*args)}")
            return result

        return recording

    def content(descriptor: int) -> str:
        number = os.fstat(descriptor).st_ino
        [path] = [each for each in tmp_path.rglob("*") if each.stat().st_ino == number]
        return f"{path.name}/" if path.is_dir() else f"{path.name}: {path.read_text()}"

    monkeypatch.setattr(os, "fsync", record(os.fsync, content))
    monkeypatch.setattr(os, "replace", record(os.replace, lambda a, b: f"{Path(a).name} -> {Path(b).name}"))
    return recorded


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


def test_content_is_on_disk_before_the_name_and_the_name_before_it_is_told(
    tmp_path: Path, calls: list[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with write_atomically(folder / "a.txt") as file:
        file.write(b"new")
    assert calls == ["fsync a.txt.tmp: new", "replace a.txt.tmp -> a.txt", "fsync folder/"]


def test_a_rename_is_on_disk_in_the_folder_of_its_target(tmp_path: Path, calls: list[str]) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "a").touch()
    replace_durably(tmp_path / "source" / "a", tmp_path / "target" / "b")
    assert calls == ["replace a -> b", "fsync target/"]
