"""A run is a folder: its settings, log, TensorBoard events, pictures and checkpoints."""

import fcntl
import itertools
import json
import logging
from pathlib import Path
from typing import IO, Any

import yaml

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError, explain
from fcmae.core.files import TEMPORARY_SUFFIX, write_atomically
from fcmae.engine.history import (
    History,
    RunSettings,
    entry_of,
    flatten,
    plain,
    require_changeable,
    told,
)
from fcmae.models.card import CHECKPOINTS, CLASSIFIER, ENCODER

logger = logging.getLogger(__name__)

SHOWN = 3  # differences from another run that a message lists


class RunFolder:
    """The folder of one run, and where things lie in it. Only rank zero of a run writes to it.

    Args:
        path: the folder; made by `acquire`

    Attributes:
        config: the resolved settings
        history: the settings that the run has gone on with
        log_file: a JSON record a line, of some steps or of a whole epoch
        tensorboard: folder of TensorBoard's events
        checkpoints: folder of the checkpoints
        curves, schedule, reconstructions: pictures; the schedule's of a run that went on with other settings
        encoder, classifier: the weights that a pre-training, a fine-tuning writes for others to use
        images: a pre-training's list of images
        train_images, val_images: a fine-tuning's two lists
        statistics: mean and standard deviation of the images, where they were measured
        broken_images, broken_val_images: names of the images that could not be read
        replay: folder of what is kept of a step that was not finite
        lock: held by the process that writes
        code: the copy of our package that a queued job runs
        jobs: folder of a queued job's logs and notes
        submitted: which job was queued for the run
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.history = History(self.path / "settings.jsonl")
        self.log_file = self.path / "log.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / CHECKPOINTS
        self.curves = self.path / "curves.png"
        self.schedule = self.path / "schedule.png"
        self.reconstructions = self.path / "reconstructions.png"
        self.encoder, self.classifier = self.path / ENCODER, self.path / CLASSIFIER
        self.images = self.path / "images.npz"
        self.train_images, self.val_images = self.path / "train.npz", self.path / "val.npz"
        self.statistics = self.path / "statistics.json"
        self.broken_images = self.path / "broken_images.txt"
        self.broken_val_images = self.path / "broken_val_images.txt"
        self.replay = self.path / "replay"
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
        settings = self.config.exists() or self.history.path.exists()
        return settings and (self.log_file.exists() or any(self.checkpoints.glob("*.pt")))

    def check(self, settings: RunSettings) -> bool:
        """Refuse a folder that cannot be this run's own, and write nothing.

        Returns:
            whether the folder held this run already

        Raises:
            UserError: the folder holds another run or something that is no run
        """
        self._refuse_misplaced()
        resumed = self.started
        if resumed:
            if not settings.resume:
                raise UserError(f"{self.path} already holds a run: resume it, or choose another folder")
            differences = self.differences(settings)
            if settings.change:
                require_changeable(differences, settings, self.path)
            elif differences:
                remedy = "repeat that run's settings to continue it, or choose another folder"
                if not differences.keys() & set(settings.fixed):
                    remedy = f"add --change to go on with it under these settings, {remedy}"
                raise UserError(
                    f"{self.path} holds a different run: {'; '.join(told(differences))}; {remedy}"
                )
        elif settings.change:
            raise UserError(f"--change: {self.path} holds no run that could go on; leave it out to start one")
        elif self._holds_something_else():
            raise UserError(
                f"{self.path} is not empty, and not a run (no {self.config.name}); choose another folder"
            )
        return resumed

    def acquire(self, settings: RunSettings) -> bool:
        """Make the folder this run's own, and save the run's settings in it.

        Returns:
            whether the folder held this run already

        Raises:
            UserError: the folder cannot be written, is in use, holds another run or something that is no run
        """
        resumed = self.check(settings)
        if current_world().is_rank_zero:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._take_lock()
                if not resumed:  # of other images, if there is one
                    self.statistics.unlink(missing_ok=True)
                self._keep(settings, resumed)
            except OSError as error:
                raise explain(error, self.path) or UserError(
                    f"{self.path} cannot be written ({error}); choose another folder"
                ) from error
        return resumed

    def _keep(self, settings: RunSettings, resumed: bool) -> None:
        """Write the settings, and add them to the history where they have changed.

        Raises:
            OSError: the folder cannot be written
        """
        differences = self.differences(settings) if resumed else {}
        step = int(newest.stem.removeprefix("step_")) if (newest := self.newest_checkpoint) else 0
        if differences:
            changes = "; ".join(f"{key} {here}, was {there}" for key, (there, here) in differences.items())
            logger.warning("%s goes on from step %d with other settings: %s", self.path, step, changes)
        entries = self.history.read() if resumed else []
        if resumed and not entries:  # of a version that kept no history, or damaged
            entries = [entry_of(self._kept(), 0)]
        if differences or not entries:
            entries.append(entry_of(settings.values, step if entries else 0))
        self.history.write(entries)
        with write_atomically(self.config) as file:
            file.write(yaml.safe_dump(plain(settings.values), sort_keys=False, allow_unicode=True).encode())

    @property
    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one, damaged or not."""
        return max(self.checkpoints.glob("step_*.pt"), default=None)

    def _refuse_misplaced(self) -> None:
        """Refuse a folder where the run keeps a file, and the reverse: it would fail there after hours."""
        folders = {self.tensorboard, self.checkpoints, self.replay, self.code, self.jobs}
        for path in (each for each in vars(self).values() if isinstance(each, Path) and each != self.path):
            if path.exists() and path.is_dir() != (path in folders):
                kinds = ("folder", "file") if path in folders else ("file", "folder")
                raise UserError(f"{path} is a {kinds[1]}, where a run keeps a {kinds[0]}: move it away")

    def _holds_something_else(self) -> bool:
        """Return whether there is more here than a run leaves that failed before its first step."""
        if not self.path.is_dir():
            return False
        if self.config.exists():
            self._kept()  # raises where it is not a run's
        lists = {self.images, self.train_images, self.val_images, self.broken_images, self.broken_val_images}
        settings = {self.config, self.history.path}
        ours = {*settings, self.statistics, self.lock, self.code, self.jobs, *lists}
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

    def differences(self, settings: RunSettings) -> dict[str, tuple[Any, Any]]:
        """Return how the run in this folder differs: by dotted key, what is there and what is here.

        Raises:
            UserError: config.yaml is not the configuration of a run
        """
        return settings.differences(flatten(self._kept()))

    def _kept(self) -> dict[str, Any]:
        """Return the settings that the folder keeps: the last of the history, else those of config.yaml.

        Raises:
            UserError: config.yaml is not the configuration of a run
        """
        entries = self.history.read()
        if entries:
            return dict(entries[-1]["settings"])
        try:
            return dict(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UserError(f"{self.config} is not a run's configuration; choose another folder") from error

    def _take_lock(self) -> None:
        """Hold the folder until this process ends. Worker processes do not inherit a POSIX lock."""
        self._held_lock = self.lock.open("w")
        try:
            fcntl.lockf(self._held_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(f"{self.path} is in use: another process is training there") from None
        except OSError:  # a file system without locks
            return


def free_folder(name: str, settings: RunSettings) -> RunFolder:
    """Return the folder of a run that names none: runs/<name>, numbered where another run is there.

    A run with the same settings is found again, and so resumed. If only others are there, a warning says
    how the most similar one differs.

    Args:
        name: what the run is called, such as digits-convnextv2_atto
        settings: those of the run

    Raises:
        UserError: the run is to change, and so has to be named
    """
    if settings.change:
        raise UserError("--change: say which run goes on with these settings, by --out and its folder")
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
            differences = told(run.differences(settings))
            if settings.resume and not differences:
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
