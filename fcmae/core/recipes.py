"""Recipes: YAML files of settings, built into the package and known by name."""

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from fcmae.core.errors import UserError

LISTS_DIGEST = "--lists-digest"  # of the lists of images that a job was queued with, see `take_option`


def with_recipe(argv: list[str], package: str, default: str) -> list[str]:
    """Return the command line with --config first: a file, a built-in recipe by name, or the default one.

    First, so that every other option wins over the file, wherever it stands.

    Args:
        argv: the options on the command line
        package: whose recipes/ folder holds the built-in ones
        default: the recipe where --config names none

    Raises:
        UserError: --config names neither a file nor a recipe
    """
    split: list[str] = []
    for word in argv:
        split += word.split("=", 1) if word.startswith("--config=") else [word]
    if "--config" not in split:
        return ["--config", str(find_recipe(default, package)), *split]
    at = split.index("--config")
    if at + 1 == len(split):
        return split
    return ["--config", str(find_recipe(split[at + 1], package)), *split[:at], *split[at + 2 :]]


def option_value(argv: list[str], option: str) -> str | None:
    """Return what a command line gives an option last, as `--data DIR` or `--data=DIR`, if it does."""
    found = None
    for word, following in pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found


def take_option(argv: list[str], option: str) -> tuple[str | None, list[str]]:
    """Return what `option_value` returns, and the command line without the option."""
    rest: list[str] = []
    following = iter(argv)
    for word in following:
        name, equals, _ = word.partition("=")
        if name != option:
            rest.append(word)
        elif not equals:
            next(following, None)
    return option_value(argv, option), rest


def find_recipe(name: str, package: str) -> Path:
    """Return the file of a recipe, given as a path or by the name of one that the package has.

    Raises:
        UserError: neither; the message lists the built-in ones
    """
    for path in (Path(name), _recipes(package) / f"{name}.yaml"):
        if path.is_file():
            return path
    known = recipe_names(package)
    raise UserError(f"--config {name}: no such file, and no built-in recipe of that name ({known})")


def recipe_names(package: str) -> str:
    """Return the names of the recipes that a package has, with commas between them."""
    return ", ".join(sorted(path.stem for path in _recipes(package).glob("*.yaml")))


def _recipes(package: str) -> Path:
    """Return the folder of a package's recipes."""
    return Path(str(files(package))) / "recipes"
