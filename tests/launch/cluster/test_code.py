"""A job imports the copy of our code, whatever lies in the folder that it starts from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcmae
from fcmae.launch.cluster.code import import_lines, snapshot

PRINT = "import fcmae.launch.cluster.process as p, fcmae.models.sizes as s; print(p.__file__, s.__file__)"


def test_the_copy_is_whole_and_replaces_a_former_one(tmp_path: Path) -> None:
    (tmp_path / "code" / "fcmae").mkdir(parents=True)
    (tmp_path / "code" / "fcmae" / "old.py").write_text("")
    snapshot(tmp_path / "code")
    home = Path(fcmae.__file__).parent
    for folder in ("core", "models", "finetune", "launch", "pretraining/recipes"):
        ours = {path.name for path in (home / folder).iterdir()} - {"__pycache__"}
        assert {path.name for path in (tmp_path / "code" / "fcmae" / folder).iterdir()} == ours
    assert not (tmp_path / "code" / "fcmae" / "old.py").exists()
    assert not any(path.is_symlink() for path in (tmp_path / "code").rglob("*"))


@pytest.mark.parametrize("name", ["models", "launch", "fcmae"])
def test_a_job_is_not_disturbed_by_what_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    """`fcmae` stands for the checkout itself, whose later changes the job must not see."""
    project = tmp_path / "project"
    (project / name).mkdir(parents=True)
    for path in (project / name / "__init__.py", project / "models.py"):
        path.write_text("raise RuntimeError('not ours')")
    code = tmp_path / "a place" / "code"
    snapshot(code)
    shell = "\n".join([*import_lines(code), f"cd {project}", f'{sys.executable} -c "{PRINT}"'])
    environment = {**os.environ, "PYTHONPATH": str(project)}
    printed = subprocess.run(
        ["bash", "-ec", shell], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split("\n")[0] == f"{code}/fcmae/launch/cluster/process.py {code}/fcmae/models/sizes.py"
