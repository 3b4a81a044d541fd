"""What is installed is one name, `fcmae`; it works where a user's own packages stand first on the path."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fcmae

TOP = Path(__file__).parents[1]
PRODUCT = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "fcmae", "models", "finetune", "launch")
HEAVY = {"torch", "torchvision", "timm", "numpy", "matplotlib", "sklearn"}

TRAIN = '''
"""A user's own training: her packages have names that folders of the toolkit have, too."""

import tempfile

import finetune
import launch
import models
import torch
from fcmae import FCMAE, create_model, load_weights


def train() -> float:
    assert {package.OWNER for package in (finetune, launch, models)} == {"the user"}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    model = FCMAE("convnextv2_atto", image_size=64, decoder_dim=8, **small)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.rand(4, 3, 64, 64)
    losses = []
    for _ in range(2):
        loss, *_ = model(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] != losses[1]
    network = create_model("convnextv2_atto", num_classes=3, **small)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(network.state_dict(), file.name)
        network.load_state_dict(load_weights(file.name).state)
    return losses[1]


def test_train() -> None:
    print("loss", train())


if __name__ == "__main__":
    print("loss", train())
'''


def run(command: list[str | Path], folder: Path, *path: Path) -> str:
    """Run a command in a folder, with the given path and no other settings of ours; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copy_checkout(folder: Path) -> Path:
    """Copy what is installed, links as links, so that building leaves nothing in the checkout."""
    folder.mkdir()
    for name in PRODUCT:
        if (TOP / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(TOP / name, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(TOP / name, folder)
    return folder


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build an sdist or a wheel with the setuptools at hand, as pip and others do."""
    folder.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    run([sys.executable, "-c", code], source)
    (built,) = folder.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", copy_checkout(folder / "checkout"), folder / "built")


def files_below(folder: Path) -> Iterator[str]:
    """Name the files that are installed, in the rooms that are links, too."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (str((Path(where) / name).relative_to(folder.parent)) for name in names)


def test_the_wheel_holds_one_name_with_recipes_and_types(wheel: Path) -> None:
    files = contents(wheel)
    own = {name for name in files if ".dist-info/" not in name}
    assert own == set(files_below(TOP / "fcmae"))
    assert {"fcmae/py.typed", "fcmae/pretraining/recipes/digits.yaml", "fcmae/models/convnext.py"} <= own
    info = f"fcmae-{fcmae.__version__}.dist-info"
    assert files[f"{info}/top_level.txt"].split() == [b"fcmae"]
    assert b"fcmae = fcmae.launch.cli.main:main" in files[f"{info}/entry_points.txt"]


def test_the_citation_and_the_changelog_name_the_version() -> None:
    assert f"\nversion: {fcmae.__version__}\n" in (TOP / "CITATION.cff").read_text(encoding="utf-8")
    changes = (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changes.partition("\n## ")[2].split()[0] == fcmae.__version__


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", copy_checkout(tmp_path / "checkout"), tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    again = build("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "built")
    assert contents(again) == contents(wheel)


@pytest.mark.parametrize("argv", [["-c", "import fcmae; dir(fcmae)"], ["-m", "fcmae", "--help"]])
def test_a_name_and_a_help_load_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", *argv]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "fcmae" in loaded
    assert loaded & HEAVY == set()


def test_public_names_are_found_when_they_are_asked_for() -> None:
    for name in fcmae.__all__:
        assert getattr(fcmae, name).__name__ == name
        assert name in dir(fcmae)
    with pytest.raises(AttributeError, match="no attribute 'FCMAEE'"):
        fcmae.FCMAEE  # noqa: B018


def new_environment(folder: Path) -> Path:
    """Make an environment that borrows all packages but an editable install of ours; return its Python."""
    venv.create(folder, symlinks=True)
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    pytest_script = "import sys, pytest\nsys.exit(pytest.console_main())\n"
    (folder / "bin" / "pytest").write_text(pytest_script, encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module", params=["checkout", "install", "editable", "wheel"])
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path
) -> tuple[Path, list[Path]]:
    """A Python that has the toolkit, each time in another way, and the path that it takes."""
    folder = tmp_path_factory.mktemp(request.param)
    python = new_environment(folder / "environment")
    checkout = copy_checkout(folder / "checkout")
    if request.param == "checkout":
        return python, [checkout]
    what: dict[str, list[str | Path]] = {
        "install": [checkout],
        "editable": ["--editable", checkout],
        "wheel": [wheel],
    }
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", *options]
    run([*pip, *what[request.param]], folder)
    if request.param != "editable":
        shutil.rmtree(checkout)
    return python, []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project: packages and modules whose names are common, and a script that trains."""
    folder = tmp_path / "project"
    for name in ("models", "launch", "finetune", "data", "engine"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text('OWNER = "the user"\n', encoding="utf-8")
    for name in ("models.py", "core.py", "pretraining.py"):
        (folder / name).write_text('OWNER = "the user"\n', encoding="utf-8")
    for name in ("train.py", "test_train.py"):
        (folder / name).write_text(TRAIN, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_it_trains_where_the_users_packages_stand_first(
    installed: tuple[Path, list[Path]], project: Path, tmp_path: Path
) -> None:
    python, path = installed
    (tmp_path / "elsewhere.py").write_text(TRAIN, encoding="utf-8")
    ways: dict[str, list[str | Path]] = {
        "a script": ["train.py"],
        "a module": ["-m", "train"],
        "pytest": [python.parent / "pytest", "-s", "-q"],
        "python -m pytest": ["-m", "pytest", "-s", "-q"],
        "a notebook, whose path starts with the working directory": ["-c", TRAIN],
    }
    printed = {way: run([python, *argv], project, *path) for way, argv in ways.items()}
    printed["a script elsewhere"] = run([python, "../elsewhere.py"], project, project, *path)
    losses = {way: text.partition("loss ")[2].split()[0] for way, text in printed.items()}
    print(losses)
    assert len(set(losses.values())) == 1, losses


@pytest.mark.slow
def test_the_command_works_away_from_the_checkout(installed: tuple[Path, list[Path]], project: Path) -> None:
    python, path = installed
    ways: list[list[str | Path]] = [[python, "-m", "fcmae"]]
    if not path:  # a plain checkout has no script
        ways.append([python.parent / "fcmae"])
    for command in ways:
        assert run([*command, "--version"], project, *path).strip() == fcmae.__version__
        assert "fcmae pretrain" in run([*command, "--help"], project, *path)
    small = ["--network.depths", "1,1,1,1", "--network.dims", "8,8,8,8"]
    run([*ways[-1], "pretrain", "--out", "run", "--epochs", "1", *small], project, *path)
    assert (project / "run" / "encoder.safetensors").is_file()
