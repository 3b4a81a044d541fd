"""Kinds that are not read are told by their bytes, whatever their names, with a line that converts them."""

import gzip
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fcmae.core.errors import UserError
from fcmae.data.sources import SourceOptions, find_opener
from fcmae.data.sources.unread import KINDS


def refusal(spec: str) -> str:
    """What is said, the same wherever it is asked."""
    opener, told = find_opener(spec), set()
    for ask in (
        opener.check,
        opener.list_images,
        lambda: opener.list_splits(0.5, 0),
        opener.val_classes,
        lambda: opener.open_images(SourceOptions(3, 8)),
        lambda: opener.open_validation(SourceOptions(3, 8)),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        told.add(str(caught.value))
    [message] = told
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_kind_is_told_by_its_bytes(kind: object, tmp_path: Path) -> None:
    path = tmp_path / "some data.tar"
    path.write_bytes(bytes(kind.at) + kind.magic + bytes(200))  # type: ignore[attr-defined]
    message = refusal(str(path))
    assert kind.kind in message  # type: ignore[attr-defined]
    assert shlex.quote(str(path)) in message or "SQLite" in message


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("s3://bucket/birds/", "aws s3 sync s3://bucket/birds/ birds;"),
        ("gs://bucket/birds", "gcloud storage rsync --recursive gs://bucket/birds birds;"),
        ("https://example.org/a b.tar", "curl -LO 'https://example.org/a b.tar';"),
        ("hf://datasets/org/birds", "hf download --repo-type dataset org/birds --local-dir birds;"),
    ],
)
def test_what_lies_on_the_network_is_fetched_first(spec: str, told: str) -> None:
    assert told in refusal(spec)


def test_a_folder_of_lmdb_is_told(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "data.mdb").write_bytes(bytes(16) + b"\xde\xc0\xef\xbe")
    assert "LMDB" in refusal(str(tmp_path / "base"))


def test_the_lines_that_convert_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"image")
    with zipfile.ZipFile("my images.zip", "w") as archive:
        archive.write("a.png")
    with gzip.open("b.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        tar.add("a.png")
    for spec, made in (("b.tar.gz", "b.tar"), ("my images.zip", "my images/a.png")):
        command = refusal(spec).partition("read as it is: ")[2].partition(";")[0]
        if command.startswith("unzip"):
            command = f"{sys.executable} -m zipfile -e {command.removeprefix('unzip -q ').replace('-d ', '')}"
        subprocess.run(command, shell=True, check=True)
        assert Path(made).is_file()
    assert tarfile.is_tarfile("b.tar")
