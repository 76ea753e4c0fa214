"""Labels of tools whose own formats are not read: what to say of them."""

from __future__ import annotations

from collections.abc import Sequence

from tinyssd.data.text import read_start
from tinyssd.data.tree import Tree, suffix

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")

# What the beginning of a file of the tool holds, all of it.
_SIGNS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("LabelMe", ".json", ('"shapes"', '"points"')),
    ("Label Studio", ".json", ('"from_name"',)),
    ("VIA", ".json", ('"region_attributes"',)),
    ("Supervisely", ".json", ('"classTitle"',)),
    ("CVAT", ".xml", ("<annotations", "<image ")),
)
_MOST_FILES = 20


def foreign_labels(tree: Tree, only: str | None) -> str:
    """Of which tool the first files of labels are, as the end of a sentence; empty where none is known."""
    names = [only] if only is not None else tree.with_suffix(".json", ".xml")
    for name in names[:_MOST_FILES]:
        start = read_start(tree.path(name))
        for tool, ending, signs in _SIGNS:
            if suffix(name) == ending and all(sign in start for sign in signs):
                return f"; {name} is in {tool}'s own format: export or convert its labels as COCO, YOLO or Pascal VOC"
    return ""
