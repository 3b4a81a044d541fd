"""The toolkit's own code, and a copy of it for a job."""

import shutil
from pathlib import Path

import fcmae
from fcmae.engine.run_folder import RunFolder

PACKAGE = Path(fcmae.__file__).resolve().parent


def snapshot(folder: Path) -> Path:
    """Copy our package to `folder`/code, so that a queued job does not see later changes.

    A copy that is there is replaced.

    Returns:
        the folder that a job puts first in PYTHONPATH
    """
    code = RunFolder(folder).code
    shutil.rmtree(code, ignore_errors=True)
    shutil.copytree(PACKAGE, code / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return code
