"""What becomes of a command's errors and warnings."""

import errno
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from fcmae.core.errors import TransientError, UserError
from fcmae.launch.cli.exit_status import Once, exit_status
from fcmae.launch.cluster import registry


def test_a_warning_is_said_once() -> None:
    once = Once()
    records = [logging.makeLogRecord({"msg": "%d images", "args": (count,)}) for count in (3, 4, 3)]
    assert [once.filter(record) for record in records] == [True, True, False]


def test_what_a_person_can_mend_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(argv: list[str]) -> int:
        raise UserError(f"{argv[0]}: no such folder")

    assert exit_status(refuse, ["nowhere"]) == 2
    assert capsys.readouterr().err == "fcmae: error: nowhere: no such folder\n"


def test_what_may_be_gone_the_next_time_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        raise TransientError("port 4 is in use")

    assert exit_status(fail, []) == 1
    assert capsys.readouterr().err == "fcmae: error: port 4 is in use\n"


def test_of_several_processes_on_a_machine_the_first_says_what_all_see(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(argv: list[str]) -> int:
        error = UserError("no such folder")
        error.of_process = bool(argv)
        raise error

    for local_rank, size in (("0", "4"), ("1", "4"), ("1", "none")):
        for name, value in (("RANK", "1"), ("WORLD_SIZE", size), ("LOCAL_RANK", local_rank)):
            monkeypatch.setenv(name, value)
        assert exit_status(refuse, []) == exit_status(refuse, ["its own"]) == 2
        another_says_it = (local_rank, size) == ("1", "4")
        assert capsys.readouterr().err.count("no such folder") == (1 if another_says_it else 2)


def test_a_full_disk_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def write(argv: list[str]) -> int:
        return Path("/dev/full").write_text("results")

    assert exit_status(write, []) == 2
    assert "No space left on device: make room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status", "remedy"),
    [
        (errno.EDQUOT, 2, "quota"),
        (errno.EROFS, 2, "mounted for writing"),
        (errno.ENOENT, 2, "deleted or moved"),
        (errno.EISDIR, 2, "in the place of a file"),
        (errno.EIO, 1, "repeat the command"),
        (errno.ESTALE, 1, "file server"),
        (errno.ENOTCONN, 1, "does not answer"),
    ],
)
def test_an_error_of_the_system_is_a_line_with_a_remedy(
    number: int, status: int, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise OSError(number, os.strerror(number), "runs/a/log.jsonl")

    assert exit_status(fail, []) == status
    said = capsys.readouterr().err
    assert said.startswith(f"fcmae: error: runs/a/log.jsonl: {os.strerror(number)}: ")
    assert remedy in said
    assert said.count("\n") == 1


def test_memory_that_ran_out_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        raise torch.OutOfMemoryError if argv else MemoryError

    assert exit_status(fail, []) == 1
    assert "have less run beside it" in capsys.readouterr().err
    assert exit_status(fail, ["gpu"]) == 2
    assert "accumulation_steps" in capsys.readouterr().err


def test_errors_that_nobody_expects_keep_their_traceback() -> None:
    def fail(argv: list[str]) -> int:
        raise OSError(errno.ENOEXEC, "Exec format error") if argv else KeyError("model")

    with pytest.raises(KeyError):
        exit_status(fail, [])
    with pytest.raises(OSError, match="Exec format"):
        exit_status(fail, ["program"])


def test_an_interrupt_is_the_status_of_its_signal() -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    assert exit_status(interrupt, []) == 128 + signal.SIGINT


PLUGIN = """
from fcmae.launch.cluster.debug import Debug
from fcmae.launch.cluster.registry import register_cluster

register_cluster("theirs", Debug())
"""


def test_plugins_of_installed_packages_are_loaded_before_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "theirs-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: theirs\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[fcmae.plugins]\ntheirs = their_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "CLUSTERS", dict(registry.CLUSTERS))
    assert exit_status(lambda argv: 0, []) == 2
    assert "plugin 'theirs' (their_plugin) cannot be imported" in capsys.readouterr().err
    (tmp_path / "their_plugin.py").write_text(PLUGIN)
    assert exit_status(lambda argv: len(registry.CLUSTERS), []) == 4
    assert "theirs" in registry.CLUSTERS
