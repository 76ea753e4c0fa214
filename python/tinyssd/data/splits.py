"""Which pictures are for training and which for validation."""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from tinyssd.data.draft import Draft, Entry
from tinyssd.errors import DataError
from tinyssd.text import plural

_SHARE = 0.2  # of the pictures, for validation, where nothing says which
_SEED = 0  # one for all: runs of other seeds are compared on the same pictures

_WORDS = {
    "train": "train",
    "training": "train",
    "trainval": "trainval",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_of(path: str) -> str | None:
    """The split that a path names, by its last part that names one: "train", "val", "test" or "trainval".

    ``bananas_train``, ``instances_val2017.json``, ``images/valid`` and ``TestSet`` name one; ``train_val`` names two.
    """
    for part in reversed(path.split("/")):
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)
        found = {_WORDS[word.lower()] for word in words if word.lower() in _WORDS}
        if len(found) == 1:
            return found.pop()
    return None


def divide(draft: Draft) -> dict[str, list[Entry]]:
    """The pictures of each split, "train" and "val" among them; the notes of ``draft`` say where it comes from.

    Raises:
        DataError: If there is but one picture and nothing to validate on.
    """
    splits: dict[str, list[Entry]] = defaultdict(list)
    for entry in draft.entries:
        splits[entry.split or ""].append(entry)
    if "trainval" in splits:
        both = splits.pop("trainval")
        if "train" not in splits:
            splits["train"] = both
    if "train" not in splits:
        return _drawn([entry for entries in splits.values() for entry in entries], draft)
    rest = splits.pop("", [])
    if rest:
        draft.notes.append(f"{plural(len(rest), 'picture is', 'pictures are')} of no split and not used")
    if "val" not in splits and "test" in splits:
        draft.notes.append("there is no validation split, so the test split is used for it")
        splits["val"] = splits.pop("test")
    if "val" not in splits:
        drawn = _drawn(splits.pop("train"), draft)
        return {**splits, **drawn}
    return dict(splits)


def _drawn(entries: list[Entry], draft: Draft) -> dict[str, list[Entry]]:
    """A seeded split by picture; the variants that Roboflow makes of one picture stay together."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.picture.partition(".rf.")[0]].append(entry)
    if len(groups) < 2:
        raise DataError(f"{draft.root}: one picture cannot be both trained on and validated on; name the two splits")
    names = sorted(groups)
    wanted = max(1, round(_SHARE * len(entries)))
    chosen: set[str] = set()
    count = 0
    for index in np.random.default_rng(_SEED).permutation(len(names)):
        if count >= wanted or len(chosen) == len(names) - 1:
            break
        chosen.add(names[index])
        count += len(groups[names[index]])
    draft.notes.append(
        f"nothing says which pictures are for validation, so {count} of {len(entries)} were drawn, always the same"
    )
    return {
        "train": [entry for name in names if name not in chosen for entry in groups[name]],
        "val": [entry for name in names if name in chosen for entry in groups[name]],
    }
