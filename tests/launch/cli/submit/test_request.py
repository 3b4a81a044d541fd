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
    request = read_request("pretrain", ["--slurm-reservation", "r", "--slurm-exclusive", "--nodes", "2"])
    assert request.extra == {"reservation": "r", "exclusive": ""}
    assert read_request("pretrain", ["--slurm-nice=5", "--slurm-hold"]).extra == {"nice": "5", "hold": ""}
    assert request.options.nodes == 2


def test_lines_of_setup_add_to_those_of_the_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config" / "fcmae").mkdir(parents=True)
    site = folder / "config" / "fcmae" / "slurm.yaml"
    site.write_text("setup: [module purge, module load cuda]\ncontainer_mounts: /data:/data\n")
    argv = ["--setup", "[ -d /scratch ]", "--setup=export A='b: c'", "--container-mounts", "/x:/x"]
    options = read_request("pretrain", argv).options
    assert options.setup == ["module purge", "module load cuda", "[ -d /scratch ]", "export A='b: c'"]
    assert options.container_mounts == ["/data:/data", "/x:/x"]
    monkeypatch.setenv("FCMAE_SLURM_SETUP", "module load gcc")
    assert read_request("pretrain", []).options.setup == ["module load gcc"]


def test_an_option_that_sbatch_does_not_have_is_told_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho '  -d, --dependency=type:jobid[:time] wait  --nice[=value]  --hold'\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert read_request("pretrain", ["--slurm-dependency", "singleton"]).extra == {"dependency": "singleton"}
    with pytest.raises(UserError, match=r"no --dependancy; did you mean --slurm-dependency\?"):
        read_request("pretrain", ["--slurm-dependancy", "singleton"])


def test_an_unknown_cluster_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown cluster 'moon': choose one of slurm, local, debug"):
        read_request("pretrain", ["--cluster", "moon"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--partitoin", "x"], "did you mean '--partition'"),
        (["--nodes", "0"], "--nodes is 0"),
        (["--cluster", "local", "--nodes", "2"], "--cluster local is this one machine"),
        (["--cluster", "local", "--container", "x.sif"], "--container x.sif is for --cluster slurm"),
        (["--cluster", "local", "--slurm-nice", "5"], "--slurm-nice is an option of sbatch"),
        (["--slurm-output", "x"], "--slurm-output: fcmae sets"),
        (["--cluster", "debug", "--dry-run"], "--cluster debug queues nothing"),
        (["--cluster", "debug", "--sweep", "seed=1,2"], "--cluster debug queues nothing"),
    ],
)
def test_what_cannot_be_asked(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_request("pretrain", argv)
