"""The rooms of the application: imports point downwards only, and no file grows too long."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "python" / "tinyssd"
# From the ground up: a room imports from those before it.
ROOMS = (
    ("errors", "files", "processes", "text"),
    ("terminal",),
    ("data",),
    ("model",),
    ("run",),
    ("drawing",),
    ("evaluation",),
    ("prediction",),
    ("export",),
    ("training",),
    ("check",),
    ("report",),
    ("commands",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LEVELS = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))

pytestmark = pytest.mark.skipif(not FILES, reason="an installed package is tested, not a source tree")


def imported_rooms(path: Path) -> set[str]:
    """The first name under tinyssd of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            modules = [
                f"{node.module}.{alias.name}" if node.module == "tinyssd" else node.module for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        names |= {module.split(".")[1] for module in modules if module.startswith("tinyssd.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        return  # It only names what the rooms hold.
    too_high = {name for name in imported_rooms(path) if LEVELS[name] > LEVELS[room]}
    assert not too_high, f"{room} may not import from {', '.join(sorted(too_high))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
