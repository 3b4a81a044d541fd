"""The toolkit's own code, and copies of it for jobs, each named by its content."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fcmae
from fcmae.core.errors import UserError

PACKAGE = Path(fcmae.__file__).resolve().parent
COMPILED = "__pycache__"
DIGITS = 12  # of a digest, in the name of a folder


def snapshot(copies: Path) -> Path:
    """Copy our package, so that a queued job sees neither later changes nor what later jobs are given.

    Args:
        copies: the folder of all copies

    Returns:
        the folder below it that holds the copy, named by its content; one that is there already is kept

    Raises:
        UserError: that one has been changed
    """
    copies.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=copies) as draft:
        new = Path(draft, "new")
        shutil.copytree(PACKAGE, new / PACKAGE.name, ignore=shutil.ignore_patterns(COMPILED))
        code = copies / digest(new / PACKAGE.name)
        if not code.exists():
            new.rename(code)
    if digest(code / PACKAGE.name) != code.name:
        raise UserError(
            f"{code} has been changed since a job was given it: delete it, or choose another --out"
        )
    return code


def expected(copies: Path) -> Path:
    """Return the folder that `snapshot` would return now; nothing is written."""
    return copies / digest(PACKAGE)


def digest(package: Path) -> str:
    """Return a hash of the files of a package and their names."""
    hashed = hashlib.sha256()
    for path in sorted(files(package)):
        content = path.read_bytes()
        hashed.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    return hashed.hexdigest()[:DIGITS]


def files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, through links, without what Python has compiled."""
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != COMPILED:
                yield from files(path)
        else:
            yield path


def import_variables(code: Path) -> dict[str, str]:
    """Return the variables by which Python imports the copy, even in the checkout that it was made from.

    `python -m` looks in the working directory first, unless the path is safe.
    """
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(code)}
