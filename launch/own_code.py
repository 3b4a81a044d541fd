"""The toolkit's own code: that nothing else is imported in its place, and a copy of it for a job."""

import importlib.util
import shutil
from pathlib import Path

PACKAGES = ("fcmae", "finetune", "launch", "models")
HOME = Path(__file__).resolve().parent.parent


def find_foreign() -> str | None:
    """What is wrong where another module would be imported instead of one of ours; none if nothing is."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found is None or found.parent != HOME / name:
            return (
                f"`import {name}` finds {found or 'nothing'} and not {HOME / name}: rename that file or "
                "folder, or take its place out of PYTHONPATH"
            )
    return None


def snapshot(folder: Path) -> Path:
    """Copy our packages to `folder`/code, so that a queued job does not see later changes.

    A copy that is there is replaced.

    Returns:
        the folder that a job puts first in PYTHONPATH
    """
    code = folder / "code"
    shutil.rmtree(code, ignore_errors=True)
    for name in PACKAGES:
        shutil.copytree(HOME / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    return code
