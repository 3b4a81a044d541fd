"""`fcmae submit`: what it prints without queueing, and what it refuses before it queues."""

import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from fcmae.core.recipes import take_option
from fcmae.launch.cli.main import main
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.pipeline import split
from fcmae.launch.cli.submit.request import GROUPS, read_request
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cluster.options import JobOptions
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
    assert f"\nfcmae pretrain --config {folder}/runs/digits-convnextv2_atto/jobs/" in capsys.readouterr().out
    for argv in (
        ["pretrain", "--dry-run", "--", "--data", "photo"],
        ["finetune", "--dry-run", "--sweep", "seed=0,1", "--", "--data", "photo"],
    ):
        assert "photo does not exist" in refusal(capsys, "submit", *argv)
    assert sorted(folder.rglob("*")) == before


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """What a dry run prints before the script."""
    assert main(["submit", argv[0], "--dry-run", *argv[1:]]) == 0
    return capsys.readouterr().out.partition("\n\n")[0].splitlines()


def test_a_dry_run_prints_each_command_line_and_what_a_process_takes_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--nodes", "2", "--", "--config", "tiny.yaml", "--out"]
    title, _ = dry_run(capsys, "pretrain", *argv, "run", "--optim.accumulation_steps", "2")
    assert title == f"# 1 of 1: batch 32 = 2 processes x 2 accumulation steps x 8 images; folder {folder}/run"
    assert main(["submit", "pretrain", "--cluster", "local", "--dry-run", *argv[2:], "run"]) == 0
    resolved = resolve("pretrain", [*argv[3:], "run"], JobOptions(), acquire=True)
    assert capsys.readouterr().out.splitlines()[1] == resolved.command_line
    members = dry_run(capsys, "pretrain", "--sweep", "seed=0,1", "--sweep", "epochs=1,2", *argv, "sweep")
    titles, commands = members[::2], members[1::2]
    assert [title.rpartition("/")[2] for title in titles] == [
        "seed=0,epochs=1", "seed=0,epochs=2", "seed=1,epochs=1", "seed=1,epochs=2",
    ]  # fmt: skip
    assert len({line.split()[3] for line in commands}) == 4


def test_a_dry_run_of_a_pipeline_prints_each_step_and_what_it_waits_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [
        "--nodes=2",
        "--",
        "pretrain",
        "--config=tiny.yaml",
        "--",
        "finetune",
        "--",
        "predict",
        "--images=.",
    ]
    assert main(["submit", "pipeline", "--dry-run", "--out", "all", *steps]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line.startswith("# ") and " of 3" in line]
    assert ["after" in title for title in titles] == [False, True, True]
    assert "after 2 is done: 1 process x 64 images" in titles[2]
    assert (
        f"fcmae predict --out {folder}/all/predict/results.csv --images=. --weights {folder}/all/finetune"
        in shown
    )
    assert [line for line in shown.splitlines() if "--dependency" in line] == [
        "#SBATCH --dependency=afterok:JOB_1", "#SBATCH --dependency=afterok:JOB_2",
    ]  # fmt: skip
    subprocess.run(["bash", "-n"], input=shown, text=True, check=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["moon"], "choose one of pretrain, finetune, evaluate, probe, predict, embed, pipeline"),
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
        (["predict", *LOCAL, "--weights", "nowhere", "--images", "."], "nowhere"),
        (["embed", *LOCAL, "--weights", "nowhere", "--images", ".", "--out", "a.b"], "nowhere"),
        (["embed", "--tasks-per-node", "2", *LOCAL], "embed runs in one process: 2 are asked for"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_queued(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refusal(capsys, "submit", *argv)
    assert not list(folder.glob("**/jobs"))


def test_help_tells_each_command_and_examples_that_can_be_typed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "fcmae submit COMMAND [options of the job] -- [options of the command]" in shown
    for name in (*JOB_COMMANDS, "pipeline"):
        assert f"\n  {name} " in shown
    examples = [shlex.split(line)[2:] for line in shown.splitlines() if line.startswith("  fcmae submit ")]
    assert len(examples) == 5
    for name, *argv in examples:
        before, *steps = split(argv)
        _, asked = take_option(before, "--out") if name == "pipeline" else (None, before)
        read_request(name, asked)
        for command, *options in steps if name == "pipeline" else [[name, *steps[0]]]:
            weights = [] if JOB_COMMANDS[command].trains else ["--weights", "run"]
            JOB_COMMANDS[command].make_parser().read([*options, *weights])


def test_each_option_of_a_job_stands_in_one_group_of_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(each.name for each in fields(JobOptions))


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
    assert "done: 55 steps" in capsys.readouterr().out
    assert not (folder / "run" / "jobs").exists()
    assert "seed is -1" in refusal(capsys, *argv, "--seed", "-1")
