"""The house: who may import whom, what is never loaded, and how long files and functions may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
# Each room, and what it may import of ours: itself, and the modules listed.
ROOMS = {
    "models": (),
    "fcmae/engine": ("models.kernels",),
    "fcmae/data": ("fcmae.engine",),
    "fcmae": ("models", "fcmae.engine", "fcmae.data"),
    "finetune": ("models", "fcmae.engine", "fcmae.data"),
    "launch": ("models", "fcmae", "finetune"),
}
OURS = ("models", "fcmae", "finetune", "launch", "tests", "benchmarks")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def room_of(path: Path) -> str:
    """The innermost room that a file lies in."""
    return max((room for room in ROOMS if path.is_relative_to(TOP / room)), key=len)


SOURCES = sorted({path for room in ROOMS for path in (TOP / room).rglob("*.py")})
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TOP)))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the room"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def forbidden_imports(tree: ast.AST, room: str) -> list[str]:
    """Imports that the room's row of the table does not allow."""
    package = room.replace("/", ".")
    inner = [other.replace("/", ".") for other in ROOMS if other.startswith(f"{room}/")]
    found = []
    for line, name in imports(tree):
        ours = any(is_below(name, top) for top in OURS)
        own = is_below(name, package) and not any(is_below(name, other) for other in inner)
        if ours and not own and not any(is_below(name, module) for module in ROOMS[room]):
            found.append(f"line {line}: {name}")
    return found


def forbidden_calls(tree: ast.AST) -> list[str]:
    """Ways to run code that a file from elsewhere brings along."""
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
        if call in ("pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "eval", "exec"):
            found.append(f"line {node.lineno}: {call}")
    return found


def public_functions(tree: ast.AST) -> Iterator[Function]:
    """Functions and methods that others may call; what is nested in a function is its own affair."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield node


def overriding(tree: ast.AST) -> set[str]:
    """Names of methods of classes with a base, which the base explains."""
    derived = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases]
    return {node.name for owner in derived for node in owner.body if isinstance(node, Function)}


@every_source
def test_arrows_between_rooms(path: Path) -> None:
    assert forbidden_imports(TREES[path], room_of(path)) == []


@every_source
def test_nothing_runs_code_from_files(path: Path) -> None:
    assert forbidden_calls(TREES[path]) == []


@every_source
def test_modules_classes_and_functions_say_what_they_are(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree), "the module"
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    functions = [node for node in public_functions(tree) if node.name not in overriding(tree)]
    assert [node.name for node in [*classes, *functions] if not ast.get_docstring(node)] == []


@every_source
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(TREES[path]) if isinstance(node, Function)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize(
    ("room", "line", "allowed"),
    [
        ("models", "from models.sizes import SIZES", True),
        ("models", "from fcmae.engine.errors import UserError", False),
        ("fcmae/engine", "from models.kernels import grn", True),
        ("fcmae/engine", "from models import create_model", False),
        ("fcmae/engine", "import fcmae", False),
        ("fcmae/data", "from fcmae.engine.errors import UserError", True),
        ("fcmae/data", "from fcmae.model import FCMAE", False),
        ("fcmae", "from fcmae.data.index import ImageIndex", True),
        ("fcmae", "def late():\n    import launch.cli", False),
        ("finetune", "from fcmae.engine.loop import train", True),
        ("finetune", "from fcmae import FCMAE", False),
        ("launch", "from finetune import config", True),
        ("launch", "import tests", False),
        ("launch", "import torch, timm.models", True),
    ],
)
def test_the_arrows_are_kept_by_more_than_luck(room: str, line: str, allowed: bool) -> None:
    assert (forbidden_imports(ast.parse(line), room) == []) == allowed


@pytest.mark.parametrize(
    "line",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "pickle.load(f)"],
)
def test_unsafe_loading_is_found(line: str) -> None:
    assert forbidden_calls(ast.parse(line)) != []
