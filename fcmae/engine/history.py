"""The settings of a run: what a command gives, what its folder keeps, and how the two may differ."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically

ABSENT = "absent"


@dataclass(frozen=True)
class RunSettings:
    """The settings that a command gives a run, and how they may differ from those in its folder.

    Args:
        values: resolved, nested dicts of plain values
        volatile: dotted keys that may differ whenever the run goes on: where and how it runs
        fixed: dotted keys with another value of which its checkpoints are of no use
        defaults: flat values by dotted key; what a run of an older version, which lacks a setting, had
        resume: whether a run that is already there may go on
        change: whether it may go on with other settings
    """

    values: dict[str, Any]
    volatile: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    resume: bool = True
    change: bool = False

    @classmethod
    def of(cls, config: Any, volatile: Iterable[str], fixed: Iterable[str]) -> "RunSettings":
        """Return those of a training: a resolved dataclass, whose `change` is not the run's own."""
        values, defaults = asdict(config), asdict(type(config)())
        change = values.pop("change")
        flat = flatten(plain(defaults))
        return cls(values, tuple(volatile), tuple(fixed), flat, config.loop.resume, change)

    def differences(self, there: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what differs from a run's settings, flat: by dotted key, what is there and what is here."""
        here = flatten(plain(self.values))
        different = {}
        for key in dict.fromkeys([*there, *here]):
            kept, given = there.get(key, self.defaults.get(key, ABSENT)), here.get(key, ABSENT)
            if kept != given and key not in self.volatile:
                different[key] = (there.get(key, ABSENT), given)
        return different


class History:
    """The settings that a run has gone on with: a line of JSON each time that they changed.

    A line has the step from which they hold, the time, and all settings.

    Args:
        path: the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Return the entries, oldest first; none where the file is absent or damaged."""
        try:
            entries = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            return [{**each, "step": int(each["step"]), "settings": {**each["settings"]}} for each in entries]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Write all entries anew.

        Raises:
            OSError: the folder cannot be written
        """
        with write_atomically(self.path) as file:
            file.writelines(json.dumps(entry).encode() + b"\n" for entry in entries)


def entry_of(settings: dict[str, Any], step: int) -> dict[str, Any]:
    """Return the entry of settings, nested, that hold from a step on."""
    return {"step": step, "time": time.strftime("%Y-%m-%d %H:%M:%S%z"), "settings": plain(settings)}


def told(differences: dict[str, tuple[Any, Any]]) -> list[str]:
    """Return a sentence for each difference."""
    return [f"{key} is {there} there and {here} here" for key, (there, here) in differences.items()]


def require_changeable(differences: dict[str, tuple[Any, Any]], settings: RunSettings, run: Path) -> None:
    """Refuse differences with which no run can go on.

    Raises:
        UserError: names them
    """
    fixed = {key: values for key, values in differences.items() if key in settings.fixed}
    if fixed:
        raise UserError(
            f"{run} cannot go on like that: {'; '.join(told(fixed))}. Its checkpoints are of no use then: "
            "keep these settings, or start anew in another --out"
        )


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
