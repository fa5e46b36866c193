"""The shape of the code: which way dependencies point, how large a module gets, and where its tests are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("layers", "addons", "certs", "cli")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CORE = [path for path in MODULES if path.is_relative_to(ROOT / "layers")]

PURE = frozenset(
    "asyncio base64 binascii collections collections.abc concurrent.futures contextlib dataclasses enum fnmatch functools hashlib itertools "
    "json math operator re string struct types typing unicodedata urllib.parse zlib "
    "brotli msgspec zstandard".split()
)
"""What the core may import besides itself: nothing that knows the time, the network, the environment or chance."""
STORING = frozenset("pathlib sqlite3 stat threading".split())
"""What a store may import on top."""
ARROWS = {
    "layers": {"layers"},
    "addons": {"addons", "layers", "certs"},
    "certs": {"certs"},
    "cli": {"cli", "addons", "layers", "certs"},
}
MAX_LINES = 400
LARGE = {"addons/_promptweir.py": 600}
"""Modules that outgrew the limit, with a limit of their own."""
BROAD = {"layers/walk.py": 2, "addons/_dispatch.py": 1, "addons/_tee.py": 1}
"""Broad excepts: the walk and its other half; and where an error would otherwise end in mitmproxy's own dispatch."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            found.add(node.module or "")
    return found


def every(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


def test_the_tree_is_there() -> None:
    assert len(CORE) > 30
    assert all(any(path.is_relative_to(ROOT / folder) for path in MODULES) for folder in FOLDERS)


@every(CORE)
def test_the_core_knows_no_proxy_no_network_no_clock_and_no_environment(path: Path) -> None:
    allowed = PURE | (STORING if path.is_relative_to(ROOT / "layers" / "stores") else frozenset())

    foreign = {name for name in imports_of(path) if name not in allowed and not name.startswith("promptweir.layers")}

    assert not foreign


@every(CORE)
def test_the_core_opens_prints_and_evaluates_nothing(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }

    assert not called & {"open", "print", "input", "eval", "exec", "compile", "__import__"}


@every(CORE)
def test_the_core_says_it_in_the_type(path: Path) -> None:
    names = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}

    assert "Any" not in names


@every(MODULES)
def test_dependencies_point_inward(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]

    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("promptweir.")}

    assert ours <= ARROWS[folder]


@every([path for path in MODULES if path.is_relative_to(ROOT / "addons")])
def test_a_module_of_the_addon_is_private_but_for_its_entry(path: Path) -> None:
    """Mitmproxy puts the script's folder first on ``sys.path``: a plain name there could hide somebody's package."""
    assert path.stem.startswith("_") or path.stem == "promptweir"


@every(MODULES)
def test_a_module_is_small_and_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")

    assert lines <= LARGE.get(name_of(path), MAX_LINES)
    assert ast.get_docstring(tree_of(path)) or path.stem == "__init__"


@every(MODULES)
def test_errors_are_caught_by_name(path: Path) -> None:
    broad = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
        and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)  # cleaning up hides nothing
    ]

    assert len(broad) <= BROAD.get(name_of(path), 0)


BEYOND = {
    "layers/stores/test_crash.py": "kill -9 at any moment",
    "layers/stores/test_faults.py": "full disks, locks, corrupt files",
    "layers/stores/test_model.py": "the store as a whole, against a dict",
    "layers/test_native_questions.py": "layers/native.py; its dialect has the name test_native.py",
}
"""Test files that are about more than one module."""
MIRRORED = sorted(path for folder in FOLDERS for path in (ROOT / "tests" / folder).rglob("test_*.py"))


@every(MIRRORED)
def test_a_test_file_mirrors_a_module(path: Path) -> None:
    place = path.relative_to(ROOT / "tests")
    subject = path.stem.removeprefix("test_")
    stems = {module.stem.removeprefix("_") for module in (ROOT / place.parent).glob("*.py")}

    mirrored = any(stem == subject or stem.startswith(f"{subject}_") for stem in stems)

    assert mirrored or place.as_posix() in BEYOND


@pytest.mark.parametrize("place", list(BEYOND))
def test_every_exception_is_still_one(place: str) -> None:
    assert (ROOT / "tests" / place).exists()
