"""The clusters by name."""

from fcmae.core.errors import UserError
from fcmae.launch.cluster.base import Cluster
from fcmae.launch.cluster.debug import Debug
from fcmae.launch.cluster.local import Local
from fcmae.launch.cluster.slurm import Slurm

CLUSTERS: dict[str, Cluster] = {"slurm": Slurm(), "local": Local(), "debug": Debug()}


def register_cluster(name: str, cluster: Cluster) -> None:
    """Let a cluster be asked for by `--cluster NAME`; a name that is taken is given anew."""
    CLUSTERS[name] = cluster


def find_cluster(name: str) -> Cluster:
    """Return the cluster of a name.

    Raises:
        UserError: there is none; the message lists those that there are
    """
    if name not in CLUSTERS:
        raise UserError(f"unknown cluster {name!r}: choose one of {', '.join(CLUSTERS)}")
    return CLUSTERS[name]
