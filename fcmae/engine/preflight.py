"""What every run looks at before torch is imported: counts, checkpoints, a free folder."""

import itertools
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder

logger = logging.getLogger(__name__)
SHOWN = 3  # differences from another run that a message lists


def check_counts(counts: dict[str, int]) -> None:
    """Refuse settings, by name, that must be at least 1.

    Raises:
        UserError: one is not
    """
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")


def check_ranges(seed: int, drop_path_rate: float) -> None:
    """Refuse a seed that torch would not take, and a share of dropped paths that leaves none.

    Raises:
        UserError: see above
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: it must be at least 0, and below 2^63")
    if not 0 <= drop_path_rate < 1:
        raise UserError(f"network.drop_path_rate is {drop_path_rate:g}: it must be at least 0, and below 1")


def check_checkpoints(run: RunFolder) -> None:
    """Refuse to resume where no file under checkpoints/ can be a checkpoint (a torch.save file is a zip).

    Raises:
        UserError: see above
    """
    files = sorted(run.checkpoints.glob("step_*.pt"))
    if files and not any(zipfile.is_zipfile(file) for file in files):
        raise UserError(
            f"{files[-1]}: damaged, or not a checkpoint, and so are all in that folder; delete {run.path} to "
            "start again, or choose another --out"
        )


def free_folder(name: str, config: dict[str, Any], volatile: Iterable[str], *, resume: bool) -> RunFolder:
    """The folder of a run that names none: runs/<name>, numbered where another run is there.

    A run with the same settings is found again, and so resumed. If only others are there, a warning says
    how the most similar one differs.

    Args:
        name: what the run is called, such as digits-convnextv2_atto
        config, volatile: as for `RunFolder.acquire`
        resume: whether a run with these settings may be continued
    """
    volatile = tuple(volatile)
    nearest: tuple[Path, list[str]] | None = None
    for number in itertools.count(1):
        run = RunFolder(Path("runs") / (f"{name}-{number}" if number > 1 else name))
        if not run.path.exists() or (run.config.exists() and not run.started):
            if nearest is not None:
                path, differences = nearest
                more = [f"{len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
                reason = "; ".join(differences[:SHOWN] + more) or "loop.resume is false"
                logger.warning("%s holds a run (%s); this one is new: %s", path, reason, run.path)
            return run
        if run.started:
            differences = run.differences(config, volatile)
            if resume and not differences:
                return run
            if nearest is None or len(differences) < len(nearest[1]):
                nearest = run.path, differences
    raise AssertionError("unreachable")
