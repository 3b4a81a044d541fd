"""The house: what must load without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[1]


def torch_free_modules() -> list[str]:
    """List the modules of the contract in pyproject.toml, those of a package one by one."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {each["name"]: each for each in settings["tool"]["importlinter"]["contracts"]}
    names = ["fcmae"]
    for name in contracts["What may not import torch"]["source_modules"]:
        place = TOP / name.replace(".", "/")
        files = place.glob("**/*.py") if place.is_dir() else [place.with_suffix(".py")]
        modules = (file.relative_to(TOP).with_suffix("") for file in files)
        names += [".".join(each.parts).removesuffix(".__init__") for each in sorted(modules)]
    return names


def test_a_wrong_path_can_fail_before_torch_is_loaded() -> None:
    """The contract reads imports; this one runs them, in an interpreter of its own."""
    code = f"""
import importlib, sys
for name in {torch_free_modules()}:
    importlib.import_module(name)
    loaded = {{"torch", "torchvision", "timm"}} & set(sys.modules)
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr.splitlines()[-1]
