"""The house, where linters do not see it: what loads torch or runs code, lengths, docstrings, words."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
ROOMS = ("fcmae", "models", "finetune", "launch")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60
# First words of a docstring that says what a function is instead of what it does.
NO_VERBS = re.compile(
    r"(The|An?|What|Whether|Which|Who|Where|When|How|Each|Every|All|Both|Its?|Our|Their|No)\b"
)
# Words that gave way to the field's (CONTRIBUTING.md has a glossary), in names with underscores or without.
OLD_WORDS = re.compile(
    r"(^|_)(figures?_of|figures|claims?|claimed|rarity|is_main|main_process|trials?|accumulate|kernel_calls)(_|$)"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef

SOURCES = sorted({path for room in ROOMS for path in (TOP / room).rglob("*.py")})
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))


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


def unsafe_calls(tree: ast.AST) -> list[str]:
    """List the calls that run code which a file brings along, but for those that ruff finds."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if call == "torch.load" and options.get("weights_only") != "True":
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if options.get("allow_pickle", "False") != "False":
            found.append(f"line {node.lineno}: {call} with pickle")
    return found


@every_source
def test_nothing_runs_code_from_files(path: Path) -> None:
    assert unsafe_calls(TREES[path]) == []


@pytest.mark.parametrize(
    "line", ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)"]
)
def test_unsafe_loading_is_found(line: str) -> None:
    assert unsafe_calls(ast.parse(line)) != []


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """Name all functions and methods of a file, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


@every_source
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    lengths = {each.name: (each.end_lineno or 0) - each.lineno + 1 for each in functions_of(TREES[path])}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def is_property(function: Function) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


@every_source
def test_docstrings_say_what_functions_do(path: Path) -> None:
    tree = TREES[path]
    told = {each: ast.get_docstring(each) or "" for each in functions_of(tree) if not is_property(each)}
    assert [f"{each.name}: {text}" for each, text in told.items() if NO_VERBS.match(text)] == []
    assert "see above" not in path.read_text(encoding="utf-8").lower()


@every_source
def test_public_methods_have_docstrings(path: Path) -> None:
    """Those of a class with a base are explained there where they have the name of one of its methods."""
    for owner in (node for node in TREES[path].body if isinstance(node, ast.ClassDef) and not node.bases):
        methods = {each.name: ast.get_docstring(each) for each in owner.body if isinstance(each, Function)}
        assert [name for name, told in methods.items() if not (told or name.startswith("_"))] == []


def names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | Function):
            yield node.name
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@every_source
def test_the_fields_words_are_kept(path: Path) -> None:
    assert {name for name in names_in(TREES[path]) if OLD_WORDS.search(name)} == set()
