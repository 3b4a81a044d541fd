"""The way to a command: found by name, and nothing loaded that it does not need."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from fcmae.launch.cli.main import COMMANDS, main
from tests.launch.toys import help_of, refusal

HEAVY = ("torch", "numpy", "jsonargparse", "rich", "yaml", "submitit", "fcmae.engine", "fcmae.data")
ON_WEIGHTS = ("finetune", "evaluate", "probe", "predict", "embed", "export")


def run_in_a_process(code: str, *argv: str) -> str:
    """Run code in a process of its own, which has imported nothing yet; return what it prints."""
    result = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"fcmae {name} +{re.escape(summary)}", shown)


def test_an_unknown_command_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    known = ", ".join(COMMANDS)
    assert f"unknown command 'pretarin': choose one of {known}" in refusal(capsys, "pretarin")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == importlib.metadata.version("fcmae")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_module_that_runs(name: str) -> None:
    module = import_module(f"fcmae.launch.cli.{COMMANDS[name][0]}")
    assert callable(module.run)
    assert module.__doc__ is not None
    assert module.__doc__.startswith(f"`fcmae {name}`: ")


def test_the_help_loads_nothing_that_a_command_needs() -> None:
    code = (
        "import sys\nfrom fcmae.launch.cli.main import main\nmain(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert run_in_a_process(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_explained_without_torch(name: str) -> None:
    code = (
        "import sys\nfrom fcmae.launch.cli.main import main\n"
        "try:\n    main([sys.argv[1], '--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    assert run_in_a_process(code, name).splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "command", [*sorted(COMMANDS.keys() - {"submit", "data"}), "data inspect", "data pack"]
)
def test_help_names_the_types_of_values(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert not re.search("<class|<function", help_of(capsys, *command.split()))


@pytest.mark.parametrize("command", ON_WEIGHTS)
def test_help_spells_options_with_hyphens(capsys: pytest.CaptureFixture[str], command: str) -> None:
    shown = help_of(capsys, command)
    assert "--image-size" in shown or "--batch-size" in shown
    assert "_size " not in shown.replace("{", " ")


def test_wrong_paths_are_reported_without_importing_torch(trained: Path) -> None:
    commands = [
        ["finetune", "--data=nowhere"],
        ["finetune", "--init=nowhere"],
        ["evaluate", "--weights=weights.safetensors", "--data=data"],
        ["predict", "--weights=weights.safetensors", "--images=nowhere"],
        ["export", "--weights=weights.safetensors", "--format=torch", "--out=x.pt"],
    ]
    code = (
        "import json, sys\nfrom fcmae.launch.cli.main import main\n"
        "print([main(argv) for argv in json.loads(sys.argv[1])], 'torch' in sys.modules)"
    )
    assert run_in_a_process(code, json.dumps(commands)).strip() == f"{[2] * len(commands)} False"


@pytest.mark.parametrize("argv", [(), ("pretrain", "--help"), ("info",), ("submit", "--help")])
def test_where_nobody_reads_on_a_command_ends_without_a_word(argv: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "fcmae", *argv]
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writing)
    assert ended.stderr == ""
    assert ended.returncode in (0, 1, 128 + signal.SIGPIPE)  # argparse's own answer, rich's, and ours
