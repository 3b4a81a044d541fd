"""Recipes: YAML files of settings, built into the package and known by name."""

from importlib.resources import files
from itertools import pairwise
from pathlib import Path

from fcmae.core.errors import UserError


def with_recipe(argv: list[str], package: str, default: str) -> list[str]:
    """The command line with --config first: a file, a built-in recipe by name, or the default one.

    First, so that every other option wins over the file, wherever it stands.

    Args:
        argv: the words of the command line
        package: whose recipes/ folder holds the built-in ones
        default: the recipe where --config names none

    Raises:
        UserError: --config names neither a file nor a recipe
    """
    words: list[str] = []
    for word in argv:
        words += word.split("=", 1) if word.startswith("--config=") else [word]
    if "--config" not in words:
        return ["--config", str(find_recipe(default, package)), *words]
    at = words.index("--config")
    if at + 1 == len(words):
        return words
    return ["--config", str(find_recipe(words[at + 1], package)), *words[:at], *words[at + 2 :]]


def option_value(argv: list[str], option: str) -> str | None:
    """What a command line gives an option last, as `--data DIR` or `--data=DIR`; none where it does not."""
    found = None
    for word, following in pairwise([*argv, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found


def find_recipe(name: str, package: str) -> Path:
    """The file of a recipe: a path, or the name of one that the package has.

    Raises:
        UserError: neither; the message lists the built-in ones
    """
    for path in (Path(name), _recipes(package) / f"{name}.yaml"):
        if path.is_file():
            return path
    known = recipe_names(package)
    raise UserError(f"--config {name}: no such file, and no built-in recipe of that name ({known})")


def recipe_names(package: str) -> str:
    """The recipes that a package has, with commas between them."""
    return ", ".join(sorted(path.stem for path in _recipes(package).glob("*.yaml")))


def _recipes(package: str) -> Path:
    return Path(str(files(package))) / "recipes"
