"""The house: which room may import which, and no test another, read from the imports themselves.

docs/design/README.md draws the rooms.
"""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import simclr_dist

PACKAGE = Path(simclr_dist.__file__).parent
# A room uses the lines below its own. Rooms of one line may use each other, but never in a circle.
FLOORS = [
    "cli", "launch", "tracking", "reporting planning starting verification doctor", "training", "evaluation", "weights",
    "guards",
    "run", "methods", "losses optim models", "data", "distributed", "config",
    "code_version compat configs storage random log errors importing progress_bar stop_signals terminal triton_start "
    "units",
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def modules() -> dict[str, ast.Module]:
    """Dotted name below the package -> its syntax tree; the folders that links put into the package included."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "launch").rglob("*.py"), *(PACKAGE / "configs").rglob("*.py")]
    names = {path: path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in files}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for path, name in names.items()}


def imported(tree: ast.AST, known: dict[str, ast.Module]) -> Iterator[str]:
    """The project's modules that some code imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "simclr_dist":
            module = node.module.partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in known else module
        elif isinstance(node, ast.Import):
            yield from (a.name.partition(".")[2] for a in node.names if a.name.startswith("simclr_dist."))


def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imported(tree, known)) - {"", name} for name, tree in known.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Names that lead back to their first; [] when there are none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(arrows.get(name, ())):
                if found := walk(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := walk(name, []))), [])


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_stands_in_a_known_room():
    assert {room(name) for name in modules()} - set(FLOOR) == {"", "__init__", "__main__"} - {""}


def test_rooms_import_downward_only():
    upward = [
        f"{name} imports {other}"
        for name, others in graph().items()
        if name not in ("__init__", "__main__")
        for other in sorted(others)
        if FLOOR[room(other)] < FLOOR[room(name)]
    ]
    assert not upward


def test_neither_modules_nor_rooms_import_in_a_circle():
    arrows = graph()
    assert circle(arrows) == []
    rooms: dict[str, set[str]] = {}
    for name, others in arrows.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    assert circle(rooms) == []


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [({"a": {"b"}, "b": {"c"}, "c": {"a"}}, ["a", "b", "c", "a"]), ({"a": {"b", "c"}, "b": {"c"}}, [])],
)
def test_a_circle_is_found_where_there_is_one(arrows, expected):
    assert circle(arrows) == expected
    assert all(after in arrows[before] for before, after in pairwise(expected))


def imported_tests(code: str) -> set[str]:
    """The test modules (by the last part of their names) that some code imports, in any way of writing it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(*(alias.name.split(".") for alias in node.names))
            names.update((getattr(node, "module", None) or "").split("."))
    return {name for name in names if name.startswith("test_")}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from tests.data.test_order import f", {"test_order"}), ("from tests.data import test_order", {"test_order"}),
        ("import tests.data.test_order as o", {"test_order"}), ("from .test_order import f", {"test_order"}),
        ("def f():\n    from . import test_order", {"test_order"}), ("from tests.support.images import photo", set()),
    ],
)  # fmt: skip
def test_an_imported_test_is_found_however_it_is_imported(code, expected):
    assert imported_tests(code) == expected


def test_no_test_imports_another():
    """What several of them use stands in tests/support or a conftest.py."""
    files = list(Path(__file__).parent.rglob("*.py"))
    assert len(files) > 50
    assert not {file.name: found for file in files if (found := imported_tests(file.read_text()))}
