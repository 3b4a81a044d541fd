"""`fcmae submit`: what it prints without queueing, and what it refuses before it queues."""

import subprocess
from pathlib import Path

import pytest

from fcmae.launch.cli.main import main
from tests.launch.toys import help_of, refusal

LOCAL = ["--cluster", "local", "--"]


def test_the_script_asks_for_what_was_given_and_for_no_gpu_unasked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--nodes=8", "--gpus-per-node=4", "--time=3-00:00", "--cpus-per-task=12", "--mem=0"]
    extra = ["--slurm-reservation", "r", "--slurm-nice=5"]
    assert main(["submit", "pretrain", "--dry-run", *given, *extra]) == 0
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
    tiny = ["--config", "tiny.yaml"]
    assert main(["submit", "pretrain", "--dry-run", "--", *tiny]) == 0
    assert f"{folder}/runs/digits-convnextv2_atto/jobs" in capsys.readouterr().out
    assert main(["submit", "finetune", "--dry-run", "--sweep", "seed=0,1", "--", "--out", "sweep"]) == 0
    assert f"{folder}/sweep/jobs" in capsys.readouterr().out
    steps = ["--", "pretrain", *tiny, "--", "finetune", "--data", "digits"]
    assert main(["submit", "pipeline", "--dry-run", *steps]) == 0
    assert f"{folder}/runs/pipeline/jobs" in capsys.readouterr().out
    assert main(["submit", "pretrain", "--dry-run", *LOCAL, *tiny]) == 0
    run = f"{folder}/runs/digits-convnextv2_atto"
    assert capsys.readouterr().out.startswith(f"fcmae pretrain --config {run}/config.yaml --out {run}")
    for argv in (
        ["pretrain", "--dry-run", "--", "--data", "photo"],
        ["finetune", "--dry-run", "--sweep", "seed=0,1", "--", "--data", "photo"],
    ):
        assert "photo does not exist" in refusal(capsys, "submit", *argv)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["moon"], "choose one of pretrain, finetune, evaluate, probe, pipeline"),
        (["pretrain", "--cluster", "moon"], "choose one of slurm, local, debug"),
        (["pretrain", "--data", "photos"], "-- --data ..."),
        (["finetune", "--optim.base-lr=1", "--nodes", "2"], "--optim.base-lr is an option of the command"),
        (["pretrain", "--partition", "p", "--data", "photos"], "-- --data ..."),
        (["evaluate", "--weights", "run"], "--weights is an option of the command"),
        (["pretrain", "--nodes", "0"], "--nodes is 0"),
        (["pretrain", *LOCAL, "--epocs", "1"], "did you mean '--epochs'"),
        (["pretrain", *LOCAL, "--device", "gpu"], "--device gpu: unknown device"),
        (["pretrain", "--tasks-per-node", "5", *LOCAL, "--config", "tiny.yaml"], "divide by 5 processes"),
        (["evaluate", *LOCAL, "--weights", "nowhere"], "nowhere"),
        (["probe", *LOCAL, "--weigths", "run"], "did you mean '--weights'"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_queued(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refusal(capsys, "submit", *argv)
    assert not list(folder.glob("**/jobs"))


def test_help_leads_to_the_options_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "fcmae submit COMMAND [options of the job] -- [options of the command]" in shown
    assert "fcmae submit pretrain --help lists the options of a job" in shown


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "pipeline"])
def test_help_of_a_command_lists_the_options_of_its_job(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    shown = help_of(capsys, "submit", command)
    assert "--signal-seconds" in shown
    assert "--sweep" in shown


def test_debug_runs_the_command_in_this_process(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["submit", "pretrain", "--cluster", "debug", "--", "--config", "tiny.yaml"]
    assert main([*argv, "--out", "run"]) == 0
    assert "done: 56 steps" in capsys.readouterr().out
    assert not (folder / "run" / "jobs").exists()
    assert "seed is -1" in refusal(capsys, *argv, "--seed", "-1")
