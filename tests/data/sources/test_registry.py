"""One answer to which data a name means, told without torch; a new kind is a class and its registration."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.data import sources
from fcmae.data.images import ArraySource, ImageSource
from fcmae.data.sources import Opener, SourceOptions, find_opener, open_source, open_splits
from fcmae.data.sources.digits import DigitsOpener
from fcmae.data.sources.folder import FolderOpener
from fcmae.data.sources.timm import TimmOpener


@pytest.mark.parametrize(
    ("spec", "kind", "full_name", "name"),
    [
        ("digits", DigitsOpener, "digits", "digits"),
        ("./digits", FolderOpener, "./digits", "digits"),
        ("images/train/", FolderOpener, "images/train/", "train"),
        ("cifar10", TimmOpener, "timm:torch/cifar10", "cifar10"),
        ("timm:hfds/org/birds", TimmOpener, "timm:hfds/org/birds", "birds"),
        ("timm/birds", FolderOpener, "timm/birds", "birds"),
    ],
)
def test_a_name_means_one_kind_of_data(spec: str, kind: type[Opener], full_name: str, name: str) -> None:
    opener = find_opener(spec)
    assert (type(opener), opener.spec, opener.name) == (kind, full_name, name)
    assert opener.is_same(find_opener(full_name), [])
    assert not opener.is_same(find_opener("other"), [])


def test_only_the_digits_have_a_recipe_and_a_number_of_their_own() -> None:
    names = ("digits", "cifar10", "folder")
    assert [find_opener(name).recipe for name in names] == ["digits", None, None]
    assert [find_opener(name).counts([]) for name in names] == [[1797], [], []]
    assert [find_opener(name).list_images() for name in names[:2]] == [[], []]


class Unlabelled(Opener):
    """Four grey images: as little as a kind can be."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec == "grey"

    def open_images(self, options: SourceOptions) -> ImageSource:
        return ArraySource(torch.full((4, options.channels, options.size, options.size), 128))


def test_a_kind_that_is_registered_later_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OPENERS", list(sources.OPENERS))
    assert isinstance(find_opener("grey"), FolderOpener)
    sources.register_opener(Unlabelled)
    assert open_source("grey", SourceOptions(channels=2, size=8)).read(3).shape == (2, 8, 8)
    with pytest.raises(UserError, match="grey has no labels"):
        open_splits("grey", SourceOptions(channels=2, size=8))
    assert isinstance(find_opener("digits"), DigitsOpener)


def test_a_wrong_path_is_told_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom fcmae.data.sources import find_opener\n"
        "for spec in sys.argv[1:]:\n"
        "    opener = find_opener(spec)\n"
        "    try:\n"
        "        opener.list_images(), opener.list_splits(0.2, 0), opener.val_classes()\n"
        "        print(opener.counts([]))\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
        "assert not {'torch', 'timm', 'sklearn'} & set(sys.modules)\n"
    )
    words = [sys.executable, "-c", script, "digits", "cifar10", str(tmp_path / "missing")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "[1797]",
        "[]",
        f"{tmp_path / 'missing'} does not exist: give a folder of images",
    ], done.stderr
