"""Steps one after another: each knows where the weights of the one before will be."""

from pathlib import Path

import pytest
import yaml

from fcmae.data.index import describe_lists, load_lists
from fcmae.launch.cli.submit.pipeline import plan, request_of, split
from fcmae.launch.cli.submit.request import read_request
from fcmae.launch.cluster.options import JobOptions
from tests.launch.toys import make_classes, refusal

FIRST = ["--", "pretrain", "--config=tiny.yaml", "--"]


def test_each_step_starts_from_the_weights_of_the_one_before(folder: Path) -> None:
    steps = "-- pretrain --config tiny.yaml -- finetune --data digits -- finetune --data digits -- evaluate"
    jobs = plan(split(steps.split())[1:], folder / "all", JobOptions(), acquire=True)
    assert [job.folder.name for job in jobs] == ["pretrain", "finetune-1", "finetune-2", "evaluate"]
    assert [job.argv[0] for job in jobs[:3]] == ["--config"] * 3
    settings = [yaml.safe_load(Path(job.argv[1]).read_text()) for job in jobs[1:3]]
    assert [each["init"] for each in settings] == [str(jobs[0].folder), str(jobs[1].folder)]
    assert [each["out"] for each in settings] == [str(jobs[1].folder), str(jobs[2].folder)]
    report = str(folder / "all" / "evaluate" / "report")
    assert jobs[3].argv == ["--out", report, "--weights", str(jobs[2].folder)]
    assert [job.workers for job in jobs] == [0, 0, 0, None]


def test_images_of_a_later_step_are_listed_at_the_submission(folder: Path) -> None:
    make_classes(folder / "data", {"cat": 40, "dog": 40})
    steps = [["pretrain", "--config", "tiny.yaml"], ["finetune", "--data", "data"]]
    job = plan(steps, folder / "all", JobOptions(), acquire=True)[1]
    make_classes(folder / "data", {"cow": 3})
    lists = load_lists(job.folder / "train.npz", job.folder / "val.npz")
    assert sum(map(len, lists)) == 80
    assert job.argv[-2:] == ["--lists-digest", describe_lists(lists)["digest"]]


def test_a_step_that_measures_runs_in_one_process(folder: Path) -> None:
    request = read_request("pipeline", ["--nodes", "2", "--gpus-per-node", "4"])
    steps = [["pretrain", "--config", "tiny.yaml"], ["probe"]]
    trains, measures = plan(steps, folder / "all", request.options, acquire=False)
    assert request_of(trains, request) == request
    alone = request_of(measures, request).options
    assert (alone.processes, alone.gpus_per_node) == (1, 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "needs steps"),
        (["--", "cook"], "steps are pretrain, finetune, evaluate, probe"),
        (["--cluster", "local", *FIRST, "evaluate"], "needs --cluster slurm, whose jobs wait"),
        (["--sweep", "seed=1,2", *FIRST, "evaluate"], "no --sweep"),
        ([*FIRST, "pretrain", "--config=tiny.yaml"], "pretrain cannot follow pretrain"),
        ([*FIRST, "probe", "--bogus=3"], "'--bogus'"),
        ([*FIRST, "evaluate", "--device=gpu"], "--device gpu"),
        ([*FIRST, "finetune", "--device=gpu"], "--device gpu"),
        (["--dry-run", "--", "pretrain", "--data", "photo"], "photo does not exist"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_queued(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refusal(capsys, "submit", "pipeline", *argv)
    assert not list(folder.glob("**/jobs"))
