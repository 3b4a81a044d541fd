"""Settings from the command line: how tuples may be written, and what a wrong one is told."""

from dataclasses import dataclass

import pytest

from fcmae.core.errors import UserError
from fcmae.core.settings import settings_parser, to_settings


@dataclass
class Settings:
    """Settings of every kind of tuple.

    Args:
        size: one number or two
        mean: numbers, or none
        names: words
    """

    size: int | tuple[int, int] = 1
    mean: tuple[float, ...] | None = (0.5,)
    names: tuple[str, ...] = ("one",)


def read(*argv: str) -> Settings:
    return to_settings(Settings, settings_parser(Settings, "fcmae", "").read(list(argv)))


@pytest.mark.parametrize("written", ["8,4", "(8, 4)", "[8, 4]"])
def test_tuples_are_written_as_people_write_them(written: str) -> None:
    assert read("--size", written) == read(f"--size={written}") == Settings(size=(8, 4))


def test_one_of_several_and_none_at_all() -> None:
    assert read("--size", "8") == Settings(size=8)
    assert read("--names", "tensorboard") == Settings(names=("tensorboard",))
    assert read("--names", "a,b") == Settings(names=("a", "b"))
    assert read("--names", "[]") == Settings(names=())
    assert read("--mean", "none") == read("--mean=None") == Settings(mean=None)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["--size", "large"], ["size", "'large'", "[1, 2]"]),
        (["--mean", "0.5"], ["mean", "'0.5'"]),
        (["--nmes", "a"], ["'--nmes'", "'--names'"]),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(argv: list[str], names: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read(*argv)
    assert all(name in str(refused.value) for name in names), refused.value
