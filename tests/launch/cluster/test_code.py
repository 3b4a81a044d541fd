"""A job imports the copy of our code, whatever lies in the folder that it starts from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcmae
from fcmae.core.errors import UserError
from fcmae.launch.cluster import code as code_module
from fcmae.launch.cluster.code import expected, import_variables, snapshot

PRINT = "import fcmae.launch.cluster.process as p, fcmae.models.sizes as s; print(p.__file__, s.__file__)"


def test_the_copy_is_whole(tmp_path: Path) -> None:
    code = snapshot(tmp_path / "code")
    home = Path(fcmae.__file__).parent
    for folder in ("core", "models", "finetune", "launch", "pretraining/recipes"):
        ours = {path.name for path in (home / folder).iterdir()} - {"__pycache__"}
        assert {path.name for path in (code / "fcmae" / folder).iterdir()} == ours
    assert not any(path.is_symlink() for path in code.rglob("*"))


def test_a_copy_is_named_by_its_content_and_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fcmae"
    (package / "__pycache__").mkdir(parents=True)
    source = package / "a.py"
    source.write_text("first")
    monkeypatch.setattr(code_module, "PACKAGE", package)
    first = snapshot(tmp_path / "code")
    written = (first / "fcmae" / "a.py").stat()
    (package / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert expected(tmp_path / "code") == snapshot(tmp_path / "code") == first
    source.write_text("other")
    second = snapshot(tmp_path / "code")
    assert [(each / "fcmae" / "a.py").read_text() for each in (first, second)] == ["first", "other"]
    assert (first / "fcmae" / "a.py").stat() == written
    assert {path.name for path in (tmp_path / "code").iterdir()} == {first.name, second.name}
    (second / "fcmae" / "a.py").write_text("edited in place")
    with pytest.raises(UserError, match=second.name):
        snapshot(tmp_path / "code")


@pytest.mark.parametrize("name", ["models", "launch", "fcmae"])
def test_a_job_is_not_disturbed_by_what_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    """`fcmae` stands for the checkout itself, whose later changes the job must not see."""
    project = tmp_path / "project"
    (project / name).mkdir(parents=True)
    for path in (project / name / "__init__.py", project / "models.py"):
        path.write_text("raise RuntimeError('not ours')")
    code = snapshot(tmp_path / "a place" / "code")
    environment = {**os.environ, **import_variables(code)}
    argv = [sys.executable, "-c", PRINT]
    printed = subprocess.run(
        argv, cwd=project, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split("\n")[0] == f"{code}/fcmae/launch/cluster/process.py {code}/fcmae/models/sizes.py"
