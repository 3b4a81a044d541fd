"""What a job asks of a cluster, and what none can give."""

import pytest

from fcmae.core.errors import UserError
from fcmae.launch.cluster.options import JobOptions, minutes


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


def test_processes_are_one_for_each_gpu_unless_said() -> None:
    assert JobOptions(nodes=2).processes == 2
    assert JobOptions(nodes=2, gpus_per_node=4).processes == 8
    assert JobOptions(nodes=2, gpus_per_node=4, tasks_per_node=1).processes == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (JobOptions(nodes=0), "--nodes is 0"),
        (JobOptions(cpus_per_task=0), "--cpus-per-task is 0"),
        (JobOptions(time="1", signal_seconds=60), "--time 1 leaves nothing before the signal"),
    ],
)
def test_what_no_cluster_can_give(options: JobOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        options.check()
