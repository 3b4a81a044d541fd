"""The toolkit's own code, and a copy of it for a job."""

import shlex
import shutil
from pathlib import Path

import fcmae

PACKAGE = Path(fcmae.__file__).resolve().parent


def snapshot(code: Path) -> None:
    """Copy our package into a folder, so that a queued job does not see later changes.

    Args:
        code: what lies there is replaced
    """
    shutil.rmtree(code, ignore_errors=True)
    shutil.copytree(PACKAGE, code / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))


def import_lines(code: Path) -> list[str]:
    """Return shell lines after which Python imports the copy, even in the checkout that it was made from.

    `python -m` looks in the working directory first, unless the path is safe.
    """
    return ["export PYTHONSAFEPATH=1", f"export PYTHONPATH={shlex.quote(str(code))}"]
