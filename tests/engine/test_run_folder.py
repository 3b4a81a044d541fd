"""A run folder belongs to one run."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fcmae.core.errors import UserError
from fcmae.engine.history import RunSettings
from fcmae.engine.loggers import JsonLines
from fcmae.engine.run_folder import RunFolder, free_folder

CONFIG = {"model": "atto", "betas": (0.9, 0.95), "out": Path("somewhere"), "loop": {"keep": 2}, "clip": None}
VOLATILE = ("out", "loop.keep")


def changed(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def started(path: Path) -> None:
    """A run that has logged its first step."""
    run = RunFolder(path)
    run.acquire(RunSettings(CONFIG))
    JsonLines(run).log({"step": 1, "loss": 1.0})


def test_new_folder_holds_the_config(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a" / "b")
    assert run.acquire(RunSettings(CONFIG)) is False
    assert yaml.safe_load(run.config.read_text()) == changed(betas=[0.9, 0.95], out="somewhere")


def test_same_run_is_resumed_and_volatile_keys_may_change(tmp_path: Path) -> None:
    started(tmp_path)
    again = changed(out=Path("elsewhere"), loop={"keep": 5})
    assert RunFolder(tmp_path).acquire(RunSettings(again, VOLATILE)) is True
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["loop"] == {"keep": 5}


def test_another_run_is_refused_with_every_difference(tmp_path: Path) -> None:
    started(tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()
    other = changed(model="tiny", clip=1.0, loop={"keep": 3}, seed=1)
    with pytest.raises(UserError, match="different run") as caught:
        RunFolder(tmp_path).acquire(RunSettings(other, VOLATILE))
    message = str(caught.value)
    for part in (
        "model is atto there and tiny here",
        "clip is None there",
        "seed is absent there and 1 here",
    ):
        assert part in message
    assert "keep" not in message
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_settings_may_be_mended_until_the_first_step(tmp_path: Path) -> None:
    RunFolder(tmp_path).acquire(RunSettings(CONFIG))
    (tmp_path / "images.npz").touch()
    assert RunFolder(tmp_path).acquire(RunSettings(changed(model="tiny"))) is False
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"] == "tiny"


def test_what_was_measured_of_other_images_is_forgotten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.acquire(RunSettings(CONFIG))
    run.statistics.write_text("{}")
    run._held_lock = None
    RunFolder(tmp_path / "run").acquire(RunSettings(CONFIG))
    assert not run.statistics.exists()
    run.statistics.write_text("{}")
    run.log_file.write_text("")
    assert RunFolder(tmp_path / "run").acquire(RunSettings(CONFIG))
    assert run.statistics.exists()


def test_a_run_killed_before_its_first_step_leaves_a_folder_it_can_take_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for path in (
        run.lock,
        run.images,
        run.broken_images,
        tmp_path / "config.yaml.tmp",
        tmp_path / "train.npz.tmp",
    ):
        path.touch()
    run.jobs.mkdir()
    assert run.acquire(RunSettings(CONFIG)) is False


@pytest.mark.parametrize("name", ["features.npz", "notes.tmp", "checkpoints"])
def test_a_file_that_no_such_run_leaves_is_respected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"not empty, and not a run|checkpoints is a file"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG))


def test_somebody_elses_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("site: mine")
    (tmp_path / "index.html").touch()
    with pytest.raises(UserError, match="not empty, and not a run"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG))
    assert (tmp_path / "config.yaml").read_text() == "site: mine"


def test_existing_run_is_refused_when_not_resuming(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG, resume=False))


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty, and not a run"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG))


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00"])
def test_config_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml is not a run's configuration"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG))


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: Not a directory.* choose another folder"):
        RunFolder(tmp_path / "file" / "run").acquire(RunSettings(CONFIG))


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.acquire(RunSettings({"a": 1}))
    program = (
        f"from fcmae.engine.history import RunSettings; from fcmae.engine.run_folder import RunFolder; "
        f"RunFolder({str(tmp_path)!r}).acquire(RunSettings({{'a': 1}}))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "UserError" in other.stderr
    assert "another process is training there" in other.stderr


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started(tmp_path)
    run = RunFolder(tmp_path)
    good = run.log_file.read_bytes()
    bad = b'\xff\xfe\n[1]\n"text"\n{"loss": 1}\n{"step": "one"}\n{"step": 2, "epoch_loss": 1}\n\0\0\n'
    run.log_file.write_bytes(good + bad + good + b'{"step": 3, "lo')
    assert [record["step"] for record in run.records()] == [1, 1]
    assert "passed over 7 lines" in caplog.text


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "curves.png", "images.npz", "checkpoints"])
def test_a_folder_in_the_place_of_a_file_is_told_at_once(tmp_path: Path, name: str) -> None:
    started(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if name == "checkpoints":
        path.touch()
    else:
        path.mkdir()
    with pytest.raises(UserError, match=rf"{name} is a (file|folder), .*move it away"):
        RunFolder(tmp_path).acquire(RunSettings(CONFIG))


def test_a_run_goes_on_with_other_settings_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started(tmp_path)
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "step_000000120.pt").touch()
    with pytest.raises(UserError, match=r"clip is None there and 1\.0 here; add --change"):
        run.check(RunSettings(changed(clip=1.0)))
    settings = RunSettings(changed(clip=1.0), change=True)
    for _ in range(2):  # a kill may come before the command ends: it is repeated
        assert RunFolder(tmp_path).acquire(settings)
    assert "from step 120 with other settings: clip 1.0, was None" in caplog.text
    assert RunFolder(tmp_path).acquire(RunSettings(changed(clip=1.0)))
    history = [(entry["step"], entry["settings"]["clip"]) for entry in run.history.read()]
    assert history == [(0, None), (120, 1.0)]


def test_what_no_checkpoint_fits_is_not_changed(tmp_path: Path) -> None:
    started(tmp_path)
    settings = RunSettings(changed(model="tiny", clip=1.0), fixed=("model",), change=True)
    with pytest.raises(UserError, match=r"cannot go on like that: model is atto there and tiny here"):
        RunFolder(tmp_path).check(settings)
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path).check(replace(settings, change=False))
    assert "--change" not in str(caught.value)


def test_only_a_run_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = RunSettings(CONFIG, change=True)
    with pytest.raises(UserError, match="holds no run that could go on"):
        RunFolder("new").check(settings)
    with pytest.raises(UserError, match="by --out"):
        free_folder("digits", settings)


def test_settings_that_a_later_version_adds_block_no_run_where_they_are_as_before(tmp_path: Path) -> None:
    started(tmp_path)
    later = RunSettings(changed(new=3, open=None), defaults={"new": 3, "open": None})
    assert RunFolder(tmp_path).check(later)
    with pytest.raises(UserError, match="new is absent there and 4 here"):
        RunFolder(tmp_path).check(replace(later, values=changed(new=4, open=None)))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"model: tiny", None])
def test_a_damaged_file_of_settings_costs_nothing(tmp_path: Path, content: bytes | None) -> None:
    started(tmp_path)
    run = RunFolder(tmp_path)
    whole = run.config.read_bytes()
    run.config.unlink()
    if content is not None:
        run.config.write_bytes(content)
    assert run.acquire(RunSettings(CONFIG))
    assert run.config.read_bytes() == whole


def test_a_run_without_a_history_gets_one(tmp_path: Path) -> None:
    started(tmp_path)
    run = RunFolder(tmp_path)
    for content in (None, b"damaged"):
        run.history.path.unlink()
        if content:
            run.history.path.write_bytes(content)
        assert RunFolder(tmp_path).acquire(RunSettings(CONFIG))
        assert [entry["step"] for entry in run.history.read()] == [0]
