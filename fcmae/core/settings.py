"""Typed settings from the command line and from YAML: dataclasses, read by jsonargparse.

The one place that relies on what jsonargparse does not promise: an action's `_typehint`, the parser's
`_option_string_actions`, and the wording of its errors. pyproject.toml keeps it below its next major version;
tests/core/test_settings.py and tests/launch/cli fail where a release changes them.
"""

import argparse
import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser

from fcmae.core.errors import UserError

Settings = TypeVar("Settings")

# What jsonargparse says of a value of the wrong type, a simple one or a union.
VALUE_ERROR = re.compile(
    r'Parser key "(?P<key>[\w.]+)": '
    r"(Expected an? (?P<types>.*)\. Got value: (?P<value>.*)"
    r"|.* Subtypes: \[(?P<union>.*)\] Errors: .*value: (?P<given>.*))"
)


class Parser(ArgumentParser):
    """A jsonargparse parser that spells options with hyphens and suggests the nearest name.

    Args:
        prog: the command, as it is typed
        description: what it does, for its help
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [options]",
            description=description,
            exit_on_error=False,
            allow_abbrev=False,  # else an option means another one once one of a like name is added
        )

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Return the help, with `--image-size` for the field `image_size`, `Path` for `<class 'Path'>`."""
        text = re.sub(r"<class\s+'(\w+)'>", r"\1", super().format_help(formatter))
        return re.sub(r"--[\w.]+", lambda option: option[0].replace("_", "-"), text)

    def read(self, argv: list[str]) -> Any:
        """Parse a command line. Tuples may be written as `[1, 2]`, `(1, 2)` and `1,2`, and null as none, too.

        Raises:
            UserError: an unknown option or a value of the wrong type
        """
        argv = [_with_underscores(argument) for argument in argv]
        argv = [
            f"{word}=true" if self._is_flag(word) and (not after or after.startswith("--")) else word
            for word, after in pairwise([*argv, ""])
        ]
        argv = self._gather(argv)
        for at, argument in enumerate(argv):
            option, equals, value = argument.partition("=")
            if equals:
                argv[at] = f"{option}={self._as_yaml(option, value)}"
            elif at:
                argv[at] = self._as_yaml(argv[at - 1], argument)
        try:
            return self.parse_args(argv)
        except argparse.ArgumentError as error:
            raise UserError(self._explain(str(error))) from None

    def _gather(self, argv: list[str]) -> list[str]:
        """Return a command line that gives several values of an option, where it takes them, as one list."""
        given: dict[str, list[str]] = {}
        kept, words = [], iter(argv)
        for word in words:
            option, equals, value = word.partition("=")
            if not option.startswith("--") or list not in [get_origin(kind) for kind in self._kinds(option)]:
                kept.append(word)
                continue
            following = value if equals else next(words, None)
            if following is None or (following.startswith("--") and not equals):
                return argv  # its value is missing, which is told as of any option
            given.setdefault(option, []).append(following)
        for option, values in given.items():
            kept.append(f"{option}={values[0] if len(values) == 1 else json.dumps(values)}")
        return kept

    def _kinds(self, option: str) -> tuple[Any, ...]:
        """Return the types of values that an option takes."""
        kind = getattr(self._option_string_actions.get(option), "_typehint", None)
        return (kind, *get_args(kind))

    def _is_flag(self, option: str) -> bool:
        """Return whether an option is true or false, and may stand alone for true."""
        return self._kinds(option)[0] is bool

    def _as_yaml(self, option: str, value: str) -> str:
        """Return the value of an option as jsonargparse reads it, where the option takes a tuple or none."""
        kinds = self._kinds(option)
        if value.lower() == "none" and type(None) in kinds:
            return "null"
        tuples = [get_args(each) for each in kinds if get_origin(each) is tuple]
        is_tuple = (tuples and "," in value) or (str, ...) in tuples
        return f"[{value.strip('() ')}]" if is_tuple and "[" not in value else value

    def _explain(self, message: str) -> str:
        """Return jsonargparse's message on one line, options as they are typed, with the nearest name."""
        message = " ".join(message.split())
        unknown = re.search(r"(?:arguments: --|[Oo]ption ')([\w.]+)", message)
        if unknown:
            group = re.search(r"Group '([\w.]+)'", message)
            name = f"{group[1]}.{unknown[1]}" if group else unknown[1]
            nearest = self._nearest(name)
            if "arguments: --" in message:  # typed, and not in a recipe
                name, nearest = (each and f"--{each.replace('_', '-')}" for each in (name, nearest))
            message = f"unknown option {name!r}"
            message += f"; did you mean {nearest!r}?" if nearest else f"; {self.prog} --help lists all"
        wrong = VALUE_ERROR.match(message)
        if wrong:
            kinds = wrong["types"] or wrong["union"]
            types = re.sub(r"<class '(\w+)'>", r"\1", kinds).replace("NoneType", "null")
            choices = re.match(r"typing\.Literal\[(.*)\]", types)
            expected = f"choose one of {choices[1]}" if choices else f"expected {types}"
            numbers = re.search(r"tuple\[(.*?)\]", types)
            if numbers:
                expected += f", a list such as '{list(range(1, numbers[1].count(',') + 2))}'"
            message = f"{wrong['key']} is {wrong['value'] or wrong['given']!r}: {expected}"
        return message

    def _nearest(self, name: str) -> str | None:
        """Return the option that ends so, as optim.lr does for lr, or else the most similar one, if any."""
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        same = [option for option in known if option.rpartition(".")[2] == name.rpartition(".")[2]]
        return next(iter(same or difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def settings_parser(kind: type, prog: str, description: str, recipes: str = "") -> Parser:
    """Return a parser of an option for each field of a dataclass, dotted if nested, and of --config.

    Later options win over earlier ones and over the file.

    Args:
        kind: the dataclass, whose docstring explains the options
        prog: the command, as it is typed
        description: what it does, for its help
        recipes: names of built-in files, for the help of --config
    """
    parser = Parser(prog, description)
    parser.add_argument(
        "--config", action="config", help=f"recipe: a YAML file of these options, or one of {recipes}"
    )
    parser.add_class_arguments(kind)
    return parser


def to_argv(options: Mapping[str, Any], group: str = "") -> list[str]:
    """Return options that were given in code as a command line gives them.

    Args:
        options: by name; those of a group as a dict or a dataclass, `optim={"lr": 1e-3}` for --optim.lr 0.001
        group: that all are of, with its dot
    """
    argv: list[str] = []
    for name, value in options.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            argv += to_argv(value, f"{group}{name}.")
        elif isinstance(value, str | os.PathLike):
            argv.append(f"--{group}{name}={os.fspath(value)}")
        else:
            argv.append(f"--{group}{name}={json.dumps(value, default=str)}")
    return argv


def read_settings(kind: type[Settings], path: Path) -> Settings:
    """Return settings from the YAML file that a run keeps.

    Raises:
        UserError: no such file, not YAML, an unknown key or a value of the wrong type
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not a list of keys and values")
        parser = settings_parser(kind, "fcmae", "")
        return to_settings(kind, parser.parse_object(values))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is this the folder of a run?") from None
    except (OSError, ValueError, yaml.YAMLError, argparse.ArgumentError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def to_settings(kind: type[Settings], parsed: Any) -> Settings:
    """Return the dataclass from what a `settings_parser` parsed."""
    parser = settings_parser(kind, "fcmae", "")
    values = vars(parser.instantiate(parsed))
    return kind(**{name: values[name] for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]


def check_counts(counts: dict[str, int]) -> None:
    """Refuse settings, by name, that must be at least 1.

    Raises:
        UserError: names the first that is not, and its value
    """
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")


def _with_underscores(argument: str) -> str:
    """Return `--image-size=64` as the field is spelled: `--image_size=64`; leave what is no option."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return option.replace("-", "_").replace("__", "--", 1) + equals + value
