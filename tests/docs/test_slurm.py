"""The page on clusters: its commands and the files of a site are read as they are written."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from fcmae.core.errors import UserError
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.request import read_request

PAGE = (Path(__file__).parents[2] / "docs" / "slurm.md").read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.strip() for line in BLOCKS.splitlines() if line.startswith("fcmae submit")]
SITES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def split(argv: list[str]) -> list[list[str]]:
    """Return what stands between the double hyphens."""
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        elif word != "OPTIONS":
            parts[-1].append(word)
    return parts


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_read(command: str) -> None:
    _, _, name, *argv = shlex.split(command, comments=True)
    options, *commands = split(argv)
    assert name in (*JOB_COMMANDS, "pipeline")
    if name != "pipeline":
        commands = [[name, *each] for each in commands]
    else:
        at = options.index("--out")
        options = options[:at] + options[at + 2 :]
    read_request(name, options)
    for step, *rest in commands:
        if JOB_COMMANDS[step].trains:
            JOB_COMMANDS[step].read(rest)
        else:
            JOB_COMMANDS[step].make_parser().read([*rest, "--weights", "of the step before"])


@pytest.mark.parametrize("site", SITES)
def test_a_file_of_a_site_is_read(home: Path, site: str) -> None:
    (home / "fcmae").mkdir()
    (home / "fcmae" / "slurm.yaml").write_text(site)
    options = read_request("pretrain", []).options
    for name, value in yaml.safe_load(site).items():
        assert getattr(options, name) == value


def test_there_is_something_to_read(home: Path) -> None:
    assert len(COMMANDS) >= 6
    assert len(SITES) == 2
    with pytest.raises(UserError, match="setpu"):
        read_request("pretrain", ["--setpu", "x"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a person's settings, empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path
