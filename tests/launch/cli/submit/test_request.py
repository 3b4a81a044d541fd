"""The options of a job: from the command line, the environment and the file of the site."""

from pathlib import Path

import pytest

from fcmae.core.errors import UserError
from fcmae.launch.cli.submit.request import read_request
from fcmae.launch.cluster.registry import CLUSTERS

pytestmark = pytest.mark.usefixtures("folder")


def test_command_line_wins_over_environment_over_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config" / "fcmae").mkdir(parents=True)
    site = folder / "config" / "fcmae" / "slurm.yaml"
    site.write_text("partition: of_file\naccount: of_file\nqos: of_file\n")
    monkeypatch.setenv("FCMAE_SLURM_ACCOUNT", "of_environment")
    monkeypatch.setenv("FCMAE_SLURM_QOS", "of_environment")
    options = read_request("pretrain", ["--qos", "given"]).options
    assert (options.partition, options.account, options.qos) == ("of_file", "of_environment", "given")
    site.write_text("cluster: local\n")
    assert read_request("pretrain", []).cluster is CLUSTERS["local"]
    site.write_text("partitoin: a\n")
    with pytest.raises(UserError, match=r"slurm\.yaml: unknown option 'partitoin'"):
        read_request("pretrain", [])


def test_options_of_sbatch_go_through_as_they_are() -> None:
    request = read_request("pretrain", ["--slurm-reservation", "r", "--nodes", "2", "--slurm-nice=5"])
    assert request.extra == {"reservation": "r", "nice": "5"}
    assert request.options.nodes == 2


def test_an_unknown_cluster_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown cluster 'moon': choose one of slurm, local, debug"):
        read_request("pretrain", ["--cluster", "moon"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--partitoin", "x"], "did you mean '--partition'"),
        (["--nodes", "0"], "--nodes is 0"),
        (["--cluster", "local", "--nodes", "2"], "--cluster local is this one machine"),
        (["--cluster", "debug", "--dry-run"], "--cluster debug queues nothing"),
        (["--cluster", "debug", "--sweep", "seed=1,2"], "--cluster debug queues nothing"),
    ],
)
def test_what_cannot_be_asked(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_request("pretrain", argv)
