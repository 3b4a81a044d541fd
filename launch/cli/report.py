"""What the commands that train and predict print of their runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcmae.core.device import pick_device
from fcmae.core.distributed import current_world
from fcmae.data.index import load_lists
from fcmae.data.sources import find_opener

if TYPE_CHECKING:
    from fcmae.engine.progress import Summary
    from fcmae.engine.run_folder import RunFolder


def announce(task: str, config: Any, lists: list[Path], run: "RunFolder") -> None:
    """Print what a run trains, on how many images of what size, on which device, and where it keeps all.

    Args:
        task: what is done with which model
        config: the settings of a training
        lists: files of the run's lists of images, where they come from a folder
        run: the folder

    Raises:
        UserError: a list that is damaged, or a device that is not there
    """
    data = find_opener(config.data)
    counts = data.counts(load_lists(*lists))
    images = f"{' + '.join(map(str, counts))} images of {data.spec}" if counts else data.spec
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    device, processes = pick_device(config.device), current_world().size
    where = f"{processes} x {device}" if processes > 1 else device
    print(f"{task} on {images}, {height} x {width}, {where}; run folder: {run.path}")


def print_broken(heading: str, listed: Path, images: Path) -> None:
    """Print how many images of a run could not be read, if any, after a heading.

    Args:
        heading: the start of the line
        listed: the run's list of files that could not be read
        images: the run's list of images
    """
    from fcmae.data.broken import count_broken  # imports torch

    counted = count_broken(listed, images)
    if counted:
        print(heading + counted)


def print_stopped(summary: "Summary", run: "RunFolder") -> int:
    """Say that a signal stopped a run, and how it goes on; return the exit status."""
    print(f"stopped after step {summary.steps}, saved; the same command goes on with {run.path}")
    return 128 + (summary.interrupted or 0)


def print_table(images: int, broken: int, out: Path) -> int:
    """Say what table was written, of how many images; return the exit status."""
    listed = f"; {broken} broken files are listed in {out}.broken.txt" if broken else ""
    print(f"wrote {out}: {images} images{listed}")
    return 0
