"""What SLURM says of jobs, by stand-ins of squeue and sacct that answer, fail, hang or are not there."""

from pathlib import Path

import pytest

from fcmae.launch.cluster import squeue
from fcmae.launch.cluster.base import State

PENDING = "12_1|PENDING|2026-01-02T03:04:05|N/A|Priority|(null)"
DEPENDENT = "13|PENDING|N/A|N/A|Dependency|afterok:12_*(unfulfilled)"
RUNNING = "12_0|RUNNING|2026-01-02T03:04:05|2026-01-02T03:05:10|None|(null)"
NEW = "14|HIBERNATING|N/A|N/A|None|(null)"
UNKNOWN = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of SLURM's commands; there are none yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def test_states_reasons_and_time_in_the_queue(commands: Path) -> None:
    write(commands, "squeue", f"/bin/cat <<'END'\n{PENDING}\n{DEPENDENT}\n{RUNNING}\n{NEW}\nEND")
    found = squeue.ask(["12_0", "12_1", "13", "14"])
    assert found["12_0"] == State("RUNNING", True, "", 65.0)
    assert found["12_1"].name == "PENDING"
    assert found["12_1"].reason == "Priority"
    assert (found["12_1"].waited or 0) > 65
    assert found["13"] == State("PENDING", True, "Dependency: afterok:12_*")
    assert found["14"].active


def test_what_squeue_forgot_sacct_may_know(commands: Path) -> None:
    write(commands, "squeue", UNKNOWN)
    assert squeue.ask(["7"]) == {"7": State("ENDED", False)}  # no sacct
    write(commands, "sacct", "echo Slurm accounting storage is disabled >&2; exit 1")
    assert squeue.ask(["7"]) == {"7": State("ENDED", False)}
    write(commands, "sacct", "echo '7|CANCELLED by 1000'; echo '8|RUNNING'")
    assert squeue.ask(["7", "8", "9"]) == {
        "7": State("CANCELLED", False),
        "8": State("RUNNING", True),
        "9": State("ENDED", False),
    }


def test_no_answer_is_said(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        found = squeue.ask(["7", "8"])
        assert [state.active for state in found.values()] == [None, None]
        return found["7"].reason

    assert reason() == "squeue: No such file or directory"
    write(commands, "squeue", "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1")
    assert "Unable to contact slurm controller" in reason()
    write(commands, "squeue", "exit 3")
    assert "status 3" in reason()
    monkeypatch.setattr(squeue, "SECONDS", 0.2)
    write(commands, "squeue", "exec /bin/sleep 5")
    assert "within 0 s" in reason()
