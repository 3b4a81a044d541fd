"""What is asked of a cluster, and jobs on this machine, which need none."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.jobs import row
from fcmae.launch.cli.main import main
from fcmae.launch.cli.submit.pipeline import plan, split
from fcmae.launch.cli.submit.request import read_request
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cli.submit.sweep import combinations
from fcmae.launch.cluster.base import State
from fcmae.launch.cluster.options import JobOptions, minutes
from fcmae.launch.cluster.records import Record, read_record, write_record
from fcmae.launch.cluster.registry import find_cluster
from fcmae.launch.cluster.slurm import Slurm

TINY = {
    "data": "digits",
    "image_size": 16,
    "epochs": 1,
    "batch_size": 32,
    "network": {"in_chans": 1, "stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "decoder": {"dim": 8},
    "optim": {"lr": 1e-3},
    "images": {"workers": 0},
    "loop": {"log_every": 1},
}
FIRST = ["pipeline", "--", "pretrain", "--config=tiny.yaml", "--"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a recipe and a module that must not be taken for ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    Path("models.py").write_text("raise RuntimeError('a module of the user')")
    return tmp_path


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["submit", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 90), ("90:30", 90.5), ("1:30:00", 90), ("2-0", 2880), ("2-1:30", 2970), ("1-0:0:30", 1440.5)],
)
def test_time_limits_are_slurms(time: str, expected: float) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize("time", ["", "1h", "1-", "1:2:3:4", "-5"])
def test_no_time_limit_is_refused(time: str) -> None:
    with pytest.raises(UserError, match="--time"):
        minutes(time)


def test_command_line_wins_over_environment_over_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config" / "fcmae").mkdir(parents=True)
    site = folder / "config" / "fcmae" / "slurm.yaml"
    site.write_text("partition: of_file\naccount: of_file\nqos: of_file\n")
    monkeypatch.setenv("FCMAE_SLURM_ACCOUNT", "of_environment")
    monkeypatch.setenv("FCMAE_SLURM_QOS", "of_environment")
    job = read_request("pretrain", ["--qos", "given"]).options
    assert (job.partition, job.account, job.qos) == ("of_file", "of_environment", "given")
    site.write_text("partitoin: a\n")
    with pytest.raises(UserError, match=r"slurm\.yaml: unknown option 'partitoin'"):
        read_request("pretrain", [])


def test_script_asks_for_what_was_given_and_for_no_gpu_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--nodes",
        "8",
        "--gpus-per-node",
        "4",
        "--time",
        "3-00:00",
        "--cpus-per-task",
        "12",
        "--mem",
        "0",
    ]
    assert (
        main(["submit", "pretrain", "--dry-run", *words, "--slurm-reservation", "r", "--slurm-nice=5"]) == 0
    )
    script = capsys.readouterr().out
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert asked > {
        "nodes=8", "gpus-per-node=4", "ntasks-per-node=4", "time=3-00:00", "cpus-per-task=12", "mem=0",
        "reservation=r", "nice=5", "signal=USR2@120", "requeue", "open-mode=append",
    }  # fmt: skip
    assert main(["submit", "pretrain", "--dry-run"]) == 0
    assert "gpu" not in capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_dry_run_checks_the_settings_names_the_folder_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["submit", "pretrain", "--dry-run", "--", "--config", "tiny.yaml"]) == 0
    assert f"{folder}/runs/digits-convnextv2_atto/jobs" in capsys.readouterr().out
    assert main(["submit", "finetune", "--dry-run", "--sweep", "seed=0,1", "--", "--out", "sweep"]) == 0
    assert f"{folder}/sweep/jobs" in capsys.readouterr().out
    stages = ["--", "pretrain", "--config", "tiny.yaml", "--", "finetune", "--data", "digits"]
    assert main(["submit", "pipeline", "--dry-run", *stages]) == 0
    for words in (
        ["pretrain", "--dry-run", "--", "--data", "photo"],
        ["finetune", "--dry-run", "--sweep", "seed=0,1", "--", "--data", "photo"],
        ["pipeline", "--dry-run", "--", "pretrain", "--data", "photo"],
    ):
        assert "photo does not exist" in refusal(capsys, *words)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["pretrain", "--cluster", "local", "--"], ["--out", "all/pretrain"]),
        (["pretrain", "--cluster", "local", "--sweep", "epochs=7", "--"], ["--out", "all"]),
        (["pipeline", "--out", "all", "--", "pretrain"], ["--", "finetune"]),
    ],
)
def test_settings_of_a_queued_job_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: list[str], after: list[str]
) -> None:
    run = Path("all", "epochs=7" if "--sweep" in before else "pretrain")
    resolve("pretrain", ["--config", "tiny.yaml", "--out", str(run)], JobOptions(), acquire=True)
    write_record(run, Record("1", "slurm", "pretrain", str(run / "jobs")))
    monkeypatch.setattr(Slurm, "state", lambda *_: State("PENDING", True))
    monkeypatch.setattr(Slurm, "check_jobs", lambda *_: None)
    settings = (run / "config.yaml").read_text()
    assert "is pending for this run" in refusal(
        capsys, *before, "--config", "tiny.yaml", "--epochs", "7", *after
    )
    assert (run / "config.yaml").read_text() == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["moon"], "choose one of pretrain"),
        (["pretrain", "--partitoin", "x"], "did you mean '--partition'"),
        (["pretrain", "--data", "photos"], "-- --data ..."),
        (["finetune", "--optim.base-lr=1", "--nodes", "2"], "--optim.base-lr is an option of the command"),
        (["pretrain", "--partition", "p", "--data", "photos"], "-- --data ..."),
        (["pretrain", "--dry-run", "--cluster", "debug"], "debug queues nothing"),
        (["evaluate", "--weights", "run"], "--weights is an option of the command"),
        (["pretrain", "--nodes", "0"], "--nodes is 0"),
        (["pretrain", "--time", "1", "--signal-seconds", "60"], "leaves nothing before the signal"),
        (["pretrain", "--cluster", "local", "--nodes", "2"], "this one machine"),
        (["pretrain", "--cluster", "local", "--tasks-per-node", "5", "--", "--config", "tiny.yaml"],
         "does not divide by 5 processes"),
        (["pretrain", "--cluster", "local", "--", "--epocs", "1"], "did you mean '--epochs'"),
        (["pretrain", "--cluster", "local", "--", "--device", "gpu"], "--device gpu: unknown device"),
        (["pretrain", "--sweep", "seed"], "expected name=value"),
        (["pretrain", "--sweep", "seed=1", "--sweep", "seed=2"], "twice"),
        (["pretrain", "--cluster", "local", "--sweep", "sed=1,2", "--", "--config", "tiny.yaml"],
         "did you mean '--seed'"),
        (["evaluate", "--cluster", "local", "--", "--weights", "nowhere"], "nowhere"),
        (["probe", "--cluster", "local", "--", "--weigths", "run"], "did you mean '--weights'"),
        (["pipeline"], "needs steps"),
        (["pipeline", "--", "cook"], "steps are"),
        ([*FIRST, "probe", "--bogus=3"], "'--bogus'"),
        ([*FIRST, "evaluate", "--device=gpu"], "--device gpu"),
        ([*FIRST, "finetune", "--device=gpu"], "--device gpu"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_queued(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refusal(capsys, *words)
    assert not list(folder.glob("**/jobs"))


@pytest.mark.parametrize("stage", ["pretrain", "evaluate", "pipeline"])
def test_help_leads_to_the_options_of_a_job(capsys: pytest.CaptureFixture[str], stage: str) -> None:
    assert main(["submit", "--help"]) == 0
    assert "fcmae submit pretrain --help lists the options of a job" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["submit", stage, "--help"])
    assert "--signal-seconds" in capsys.readouterr().out


def test_without_slurm_the_local_machine_is_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "--cluster local" in refusal(capsys, "pretrain", "--", "--config", "tiny.yaml", "--out", "run")


def test_port_in_use_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(listener.getsockname()[1]))
        words = ["--cluster", "local", "--", "--config", "tiny.yaml", "--out", "run"]
        assert "already in use" in refusal(capsys, "pretrain", *words)


def test_combinations_are_all_pairs() -> None:
    points = combinations(["optim.base-lr=1e-4,2e-4", "--seed=0,1"])
    assert points[1] == [("optim.base_lr", "1e-4"), ("seed", "1")]
    assert len({tuple(point) for point in points}) == 4


def test_each_step_starts_from_the_weights_of_the_one_before(folder: Path) -> None:
    words = "-- pretrain --config tiny.yaml -- finetune --data digits -- finetune --data digits -- evaluate"
    jobs = plan(split(words.split())[1:], folder / "all", JobOptions(), acquire=True)
    assert [job.folder.name for job in jobs] == ["pretrain", "finetune-1", "finetune-2", "evaluate"]
    settings = [yaml.safe_load((folder / "all" / f"finetune-{i}.yaml").read_text()) for i in (1, 2)]
    assert [each["init"] for each in settings] == [str(jobs[0].folder), str(jobs[1].folder)]
    assert [each["out"] for each in settings] == [str(jobs[1].folder), str(jobs[2].folder)]
    assert jobs[3].argv[:2] == ["--weights", str(jobs[2].folder)]


def wait(run: Path) -> str:
    """Wait for the job in a run's folder; returns its output."""
    end = time.monotonic() + 200
    while (record := read_record(run)) and find_cluster(record.cluster).state(record).active:
        assert time.monotonic() < end
        time.sleep(0.2)
    return "\n".join(path.read_text() for path in sorted(run.glob("jobs/*log.out")))


def note(run: Path, event: str) -> list[str]:
    record = read_record(run)
    assert record is not None
    return record.noted(event)


@pytest.mark.slow
def test_job_on_this_machine_runs_the_code_and_settings_of_its_submission(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder))  # the user's models.py comes first, were it not for ours
    words = ["--cluster", "local", "--tasks-per-node", "2", "--", "--config", "tiny.yaml", "--out", "run"]
    assert main(["submit", "pretrain", *words]) == 0
    Path("tiny.yaml").write_text("epochs: 7")
    output = wait(folder / "run")
    assert "done: 56 steps" in output
    assert (folder / "run" / "code" / "fcmae" / "models" / "convnext.py").exists()
    capsys.readouterr()
    assert main(["jobs", "run"]) == 0
    assert "COMPLETED" in capsys.readouterr().out
    assert len(note(folder / "run", "done")) == 1


@pytest.mark.parametrize(
    ("state", "events", "shown"),
    [
        (State("ENDED", False), (), "ENDED, unfinished"),
        (State("ENDED", False), ("done",), "COMPLETED"),
        (State("COMPLETED", False), (), "COMPLETED"),
        (State("TIMEOUT", False), ("failed",), "TIMEOUT, unfinished"),
        (State("RUNNING", True), (), "RUNNING"),
    ],
)
def test_run_that_patience_ended_is_complete(
    folder: Path, state: State, events: tuple[str, ...], shown: str
) -> None:
    (folder / "config.yaml").write_text("epochs: 20")
    (folder / "log.jsonl").write_text('{"epoch": 1, "epoch_loss": 0.5}\n')
    for event in events:
        (folder / f"7.{event}").write_text("\n")
    assert row(folder, Record("7", "slurm", "pretrain", str(folder)), state)[0] == shown


@pytest.mark.slow
def test_killed_process_on_this_machine_is_tried_again_in_the_same_folder(folder: Path) -> None:
    words = ["--cluster", "local", "--tasks-per-node", "2", "--", "--config", "tiny.yaml", "--epochs", "8"]
    assert main(["submit", "pretrain", *words, "--out", "run", "--loop.save_minutes", "0.001"]) == 0
    run = folder / "run"
    end = time.monotonic() + 100
    while len(RunFolder(run).records()) < 10:
        assert time.monotonic() < end
        time.sleep(0.1)
    [victim] = [pid for pid in processes_of(run) if "SUBMITIT_LOCAL_GLOBALID=1" in environment(pid)]
    os.kill(victim, 9)
    output = wait(run)
    assert "process 0 of 2" in output
    assert "going on after step" in output
    assert len(note(run, "started")) == 2
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None
    assert state["progress"]["finished_epochs"] == 8


@pytest.mark.slow
def test_cancelled_job_on_this_machine_saves_and_stays_away(folder: Path) -> None:
    words = ["--cluster", "local", "--", "--config", "tiny.yaml", "--epochs", "50", "--out", "run"]
    assert main(["submit", "pretrain", *words]) == 0
    run = folder / "run"
    end = time.monotonic() + 100
    while len(RunFolder(run).records()) < 5:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert main(["jobs", "run", "--cancel"]) == 0
    assert "stopped after step" in wait(run)
    assert Checkpoints(run / "checkpoints").newest() is not None
    assert len(note(run, "started")) == 1


def processes_of(run: Path) -> list[int]:
    """The training processes of the job in a run folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and str(run / "jobs") in words:
            found.append(int(entry.name))
    return found


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
