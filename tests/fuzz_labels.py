"""Broken label files of every format: each ends as a data set or as a sentence.

``python tests/fuzz_labels.py --count 100000`` breaks that many files, which takes some minutes (``TMPDIR`` in memory
helps); a failure prints the seed that makes it again (``--seed N --count 1``). The tests run a few hundred.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labelled import WRITERS
from tinyssd.data.clean import clean
from tinyssd.data.labels import DataSet
from tinyssd.data.read import read_data_set
from tinyssd.data.summary import summary
from tinyssd.errors import DataError
from tinyssd.text import printable

# The label files of each format that are broken in turn.
FILES = {
    "banana": ("toy_train/label.csv", "toy_val/label.csv", "classes.txt"),
    "tensorflow": ("data/train_labels.csv",),
    "voc": ("Annotations/a.xml", "Annotations/e.xml", "ImageSets/Main/train.txt"),
    "coco": ("annotations/instances_train2017.json",),
    "roboflow": ("valid/_annotations.coco.json",),
    "yolo": ("labels/train/a.txt", "data.yaml"),
    "yolo by split": ("train/labels/a.txt", "classes.txt"),
}
TOKENS = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n\n",
        b",",
        b";",
        b'"',
        b"'",
        b"\\",
        b"<",
        b">",
        b"&#0;",
        b"&a;",
        b"{",
        b"[",
    ),
    *(
        b"]",
        b"}",
        b":",
        b"- ",
        b"nan",
        b"inf",
        b"-1",
        b"1e309",
        b"-0",
        b"0x10",
        b"1_0",
        b"9" * 400,
        b"9" * 5000,
        b"1.5",
    ),
    *(b"../../../etc/passwd", b"/dev/zero", b"C:\\", b"\x1b[2J", b"\xe2\x80\xae", b'"\\ud800"', b"null", b"true"),
    *(b"*a", b"&a ", b"!!python/object:os.system x", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"<![CDATA[", b"[" * 300),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 7, 1.5, 1e308, math.nan, math.inf, 10**400, "", "x", "\ud800", "\x1b[2J", "../a.png", "a.png"),
    *([], {}, [[]], [1, 2, 3, 4], {"id": 1}, [None] * 5, "9" * 5000),
)


def broken(content: bytes, name: str, pick: random.Random) -> bytes:
    """The content of a label file with something wrong in it."""
    if name.endswith(".json") and pick.random() < 0.6:
        document = json.loads(content)
        for _ in range(pick.randint(1, 3)):
            document = _with_other_value(document, pick)
        return json.dumps(document).encode()
    for _ in range(pick.randint(1, 4)):
        content = pick.choice(CHANGES)(content, pick)
    return content


def _with_other_value(value: Any, pick: random.Random) -> Any:
    """JSON where a value, somewhere, is another one or is gone."""
    if not isinstance(value, (dict, list)) or not value or pick.random() < 0.1:
        return pick.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = pick.choice(keys)
    changed = dict(value) if isinstance(value, dict) else list(value)
    if pick.random() < 0.1:
        del changed[key]
    else:
        changed[key] = _with_other_value(value[key], pick)
    return changed


def _place(content: bytes, pick: random.Random) -> int:
    return pick.randint(0, len(content))


def _flip(content: bytes, pick: random.Random) -> bytes:
    place = _place(content, pick)
    return content[:place] + bytes([pick.randrange(256)]) + content[place + 1 :]


def _cut(content: bytes, pick: random.Random) -> bytes:
    start, end = sorted((_place(content, pick), _place(content, pick)))
    return content[:start] + content[end:]


def _repeat(content: bytes, pick: random.Random) -> bytes:
    start, end = sorted((_place(content, pick), _place(content, pick)))
    return content[:end] + content[start:end] * pick.choice((1, 1, 2, 20)) + content[end:]


def _insert(content: bytes, pick: random.Random) -> bytes:
    place = _place(content, pick)
    return content[:place] + pick.choice(TOKENS) + content[place:]


def _replace_number(content: bytes, pick: random.Random) -> bytes:
    """A run of digits becomes a token."""
    places = [i for i, byte in enumerate(content) if 48 <= byte < 58]
    if not places:
        return content
    start = end = pick.choice(places)
    while end < len(content) and 48 <= content[end] < 58:
        end += 1
    return content[:start] + pick.choice(TOKENS) + content[end:]


def _end_early(content: bytes, pick: random.Random) -> bytes:
    return content[: _place(content, pick)]


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_flip, _cut, _repeat, _insert, _insert, _replace_number, _replace_number, _end_early),
)


def check(root: Path) -> str:
    """Reads a data set as a training does; says how it ended, and fails where that is neither of the two."""
    try:
        found = read_data_set(root)
    except DataError as error:
        message = str(error)
    else:
        assert_sound(found, root)
        return "read with problems" if found.problems else "read"
    assert message.startswith(str(root)), f"no file is named: {message}"
    assert message == printable(message), f"a terminal would obey: {message!r}"
    return "a sentence"


def assert_sound(found: DataSet, root: Path) -> None:
    """What every snapshot must be."""
    cleaned = clean(found)
    for problem in cleaned.problems:
        assert problem.message == printable(problem.message), f"a terminal would obey: {problem.message!r}"
        assert problem.count > 0
        assert problem.file is None or root in (problem.file, *problem.file.parents)
    for line in summary(cleaned):
        assert line == printable(line), f"a terminal would obey: {line!r}"
    for picture in (picture for pictures in cleaned.splits.values() for picture in pictures):
        assert root in picture.path.parents
        for item in picture.objects:
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 < x2 <= picture.size[0], item
            assert 0 <= y1 < y2 <= picture.size[1], item
            assert 0 <= item.class_id < len(found.class_names)


class Sets:
    """One whole data set of each format, to be broken and mended again."""

    def __init__(self, folder: Path) -> None:
        self.roots = {}
        for name in FILES:
            self.roots[name] = folder / name.replace(" ", "_")
            self.roots[name].mkdir()
            WRITERS[name][0](self.roots[name])
        self.contents = {
            (name, file): (self.roots[name] / file).read_bytes() for name, files in FILES.items() for file in files
        }

    def run(self, seed: int) -> tuple[str, str]:
        """Breaks the file that the seed chooses, reads its data set, and puts the file right again."""
        pick = random.Random(seed)
        name, file = pick.choice(sorted(self.contents))
        path, whole = self.roots[name] / file, self.contents[name, file]
        path.write_bytes(broken(whole, file, pick))
        try:
            return name, check(self.roots[name])
        finally:
            path.write_bytes(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    endings: Counter[tuple[str, str]] = Counter()
    started, failed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        sets = Sets(Path(folder))
        for seed in range(options.seed, options.seed + options.count):
            try:
                endings[sets.run(seed)] += 1
            except Exception:
                failed += 1
                print(f"seed {seed}:")
                traceback.print_exc()
    for (name, ending), count in sorted(endings.items()):
        print(f"{name:<14} {ending:<19} {count}")
    print(f"{options.count} files in {time.perf_counter() - started:.0f} s, {failed} failures")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
