"""A run is a folder: its settings, log, TensorBoard events, pictures and checkpoints."""

import fcntl
import itertools
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import yaml

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError, explain
from fcmae.core.files import TEMPORARY_SUFFIX, write_atomically
from fcmae.models.card import CHECKPOINTS, CLASSIFIER, ENCODER

logger = logging.getLogger(__name__)

ABSENT = "absent"
SHOWN = 3  # differences from another run that a message lists


class RunFolder:
    """The folder of one run, and where things lie in it. Only rank zero of a run writes to it.

    Args:
        path: the folder; made by `acquire`

    Attributes:
        config: the resolved settings
        log_file: a JSON record a line, of some steps or of a whole epoch
        tensorboard: folder of TensorBoard's events
        checkpoints: folder of the checkpoints
        curves, reconstructions: pictures
        encoder, classifier: the weights that a pre-training, a fine-tuning writes for others to use
        images: a pre-training's list of images
        train_images, val_images: a fine-tuning's two lists
        statistics: mean and standard deviation of the images, where they were measured
        broken_images, broken_val_images: names of the images that could not be read
        lock: held by the process that writes
        code: the copy of our package that a queued job runs
        jobs: folder of a queued job's logs and notes
        submitted: which job was queued for the run
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.log_file = self.path / "log.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / CHECKPOINTS
        self.curves = self.path / "curves.png"
        self.reconstructions = self.path / "reconstructions.png"
        self.encoder, self.classifier = self.path / ENCODER, self.path / CLASSIFIER
        self.images = self.path / "images.npz"
        self.train_images, self.val_images = self.path / "train.npz", self.path / "val.npz"
        self.statistics = self.path / "statistics.json"
        self.broken_images = self.path / "broken_images.txt"
        self.broken_val_images = self.path / "broken_val_images.txt"
        self.lock = self.path / ".lock"
        self.code = self.path / "code"
        self.jobs = self.path / "jobs"
        self.submitted = self.jobs / "submitted.json"
        self._held_lock: IO[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what other processes of the run get: not the lock, which rank zero holds."""
        return {**vars(self), "_held_lock": None}

    @property
    def started(self) -> bool:
        """Whether there is a run in the folder that has logged or saved anything."""
        return self.config.exists() and (self.log_file.exists() or any(self.checkpoints.glob("*.pt")))

    def check(self, config: dict[str, Any], volatile: Iterable[str] = (), *, resume: bool = True) -> bool:
        """Refuse a folder that cannot be this run's own, and write nothing.

        Args:
            config: the resolved settings, nested dicts of plain values
            volatile: dotted keys that may differ when a run is resumed
            resume: whether a run that is already there may be continued

        Returns:
            whether the folder held this run already

        Raises:
            UserError: the folder holds another run or something that is no run
        """
        self._refuse_misplaced()
        resumed = self.started
        if resumed:
            if not resume:
                raise UserError(f"{self.path} already holds a run: resume it, or choose another folder")
            differences = self.differences(config, tuple(volatile))
            if differences:
                raise UserError(
                    f"{self.path} holds a different run: {'; '.join(differences)}. "
                    f"Choose another folder, or repeat that run's settings to continue it"
                )
        elif self._holds_something_else(config):
            raise UserError(
                f"{self.path} is not empty, and not a run (no {self.config.name}); choose another folder"
            )
        return resumed

    def acquire(self, config: dict[str, Any], volatile: Iterable[str] = (), *, resume: bool = True) -> bool:
        """Make the folder this run's own, and save the run's settings in it.

        Args, Returns: as of `check`

        Raises:
            UserError: the folder cannot be written, is in use, holds another run or something that is no run
        """
        resumed = self.check(config, volatile, resume=resume)
        if current_world().is_rank_zero:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                if not resumed:  # of other images, if there is one
                    self.statistics.unlink(missing_ok=True)
                with write_atomically(self.config) as file:
                    file.write(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True).encode())
            except OSError as error:
                raise explain(error, self.path) or UserError(
                    f"{self.path} cannot be written ({error}); choose another folder"
                ) from error
        return resumed

    def _refuse_misplaced(self) -> None:
        """Refuse a folder where the run keeps a file, and the reverse: it would fail there after hours."""
        folders = {self.tensorboard, self.checkpoints, self.code, self.jobs}
        for path in (each for each in vars(self).values() if isinstance(each, Path) and each != self.path):
            if path.exists() and path.is_dir() != (path in folders):
                kinds = ("folder", "file") if path in folders else ("file", "folder")
                raise UserError(f"{path} is a {kinds[1]}, where a run keeps a {kinds[0]}: move it away")

    def _holds_something_else(self, config: dict[str, Any]) -> bool:
        """Return whether there is more here than a run leaves that failed before its first step."""
        if not self.path.is_dir():
            return False
        if self.config.exists():
            self.differences(config)  # raises where it is not a run's
        lists = {self.images, self.train_images, self.val_images, self.broken_images, self.broken_val_images}
        ours = {self.config, self.statistics, self.lock, self.code, self.jobs, *lists}
        there = {self.path / entry.name.removesuffix(TEMPORARY_SUFFIX) for entry in self.path.iterdir()}
        return not there <= ours

    def records(self) -> list[dict[str, Any]]:
        """Return all whole records of the log, oldest first; `fcmae.engine.loggers` says what they hold.

        Lines that are none are passed over, with a warning but for the last, which a kill leaves unfinished.
        """
        if not self.log_file.exists():
            return []
        lines = self.log_file.read_bytes().decode("utf-8", "replace").splitlines()
        records = [read_record(line) for line in lines]
        damaged = records[:-1].count(None)
        if damaged:
            logger.warning("%s: passed over %d lines that are no records", self.log_file, damaged)
        return [record for record in records if record is not None]

    def differences(self, config: dict[str, Any], volatile: Iterable[str] = ()) -> list[str]:
        """Return how the run in this folder differs from one with these settings, a sentence for each key.

        Args:
            config: the resolved settings, nested dicts of plain values
            volatile: dotted keys that may differ

        Raises:
            UserError: config.yaml is not the configuration of a run
        """
        try:
            there = flatten(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
            raise UserError(f"{self.config} is not a run's configuration; choose another folder") from error
        here = flatten(plain(config))
        return [
            f"{key} is {there.get(key, ABSENT)} there and {here.get(key, ABSENT)} here"
            for key in dict.fromkeys([*there, *here])
            if there.get(key, ABSENT) != here.get(key, ABSENT) and key not in volatile
        ]

    def _take_lock(self) -> None:
        """Hold the folder until this process ends. Worker processes do not inherit a POSIX lock."""
        self._held_lock = self.lock.open("w")
        try:
            fcntl.lockf(self._held_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{self.path} is in use: another process is training there") from None
        except OSError:  # a file system without locks
            return


def free_folder(name: str, config: dict[str, Any], volatile: Iterable[str], *, resume: bool) -> RunFolder:
    """Return the folder of a run that names none: runs/<name>, numbered where another run is there.

    A run with the same settings is found again, and so resumed. If only others are there, a warning says
    how the most similar one differs.

    Args:
        name: what the run is called, such as digits-convnextv2_atto
        config: the resolved settings
        volatile: dotted keys that may differ when a run is resumed
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


def read_record(line: str) -> dict[str, Any] | None:
    """Return the record that a line of the log holds, if it is one."""
    try:
        record = json.loads(line)
        if isinstance(record["step"], int) and ("epoch_loss" not in record or record["epoch"] >= 0):
            return dict(record)
    except (ValueError, TypeError, KeyError):
        pass
    return None


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings as YAML will give them back: lists for tuples, strings for paths."""
    copy: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return copy


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted keys: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
