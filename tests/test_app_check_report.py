"""``tinyssd check`` from end to end: what is printed, written and returned."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from app_check import picture, snapshot, thing
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tinyssd.check.examples import drawn_corners
from tinyssd.check.mend import mend
from tinyssd.check.report import examine
from tinyssd.check.report_text import to_json, to_text
from tinyssd.check.snapshot import Snapshot, take_snapshot
from tinyssd.cli import main
from tinyssd.data.labels import Problem
from tinyssd.model.network import TinySSDConfig
from tinyssd.run.config import read_config_file

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>alert('&')</script>"
NAMES = ("Äpfel", "苹果", HOSTILE, "ghost", "äpfel")


def save_picture(path: Path, seed: int, size: tuple[int, int] = (64, 48), exif: Image.Exif | None = None) -> None:
    """A picture of large random squares, which is like no other."""
    squares = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(squares).resize(size, Image.Resampling.NEAREST).save(path, exif=exif or Image.Exif())


def write_set(root: Path) -> None:
    """A COCO data set with one blemish of each kind."""
    turn = Image.Exif()
    turn[0x0112] = 6
    boxes: dict[str, dict[str, list[tuple[int, list[float]]]]] = {
        "train": {
            "clean.png": [(0, [4, 4, 20, 20]), (1, [30, 4, 20, 20])],
            "outside.png": [(0, [50, 30, 30, 30]), (1, [2, 2, 10, 0])],
            "doubled.png": [(1, [4, 4, 20, 20]), (1, [4, 4, 20, 20])],
            "turned.png": [(2, [40, 4, 20, 20])],
            "broken.png": [(0, [4, 4, 20, 20])],
            "leak.png": [(4, [4, 4, 20, 20])],
            "empty.png": [],
        },
        "val": {"same.png": [(0, [4, 4, 20, 20]), (1, [30, 4, 20, 20])]},
    }
    for split, pictures in boxes.items():
        for seed, name in enumerate(pictures):
            save_picture(root / split / name, seed, exif=turn if name == "turned.png" else None)
        objects = [(i, *item) for i, found in enumerate(pictures.values()) for item in found]
        coco = {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(pictures)],
            "annotations": [
                {"id": n, "image_id": i, "category_id": c, "bbox": box} for n, (i, c, box) in enumerate(objects)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(coco), encoding="utf-8")
    (root / "val" / "same.png").write_bytes((root / "train" / "leak.png").read_bytes())
    damage(root / "train" / "broken.png")


def damage(path: Path) -> None:
    """Breaks a PNG file's pixels, but neither its header nor its end."""
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 12
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)


EXPECTED = {
    "unreadable picture": ("error", 1),
    "same picture in two splits": ("error", 1),
    "box outside its picture": ("warning", 1),
    "box without area": ("error", 1),
    "doubled box": ("warning", 1),
    "boxes before the EXIF turn": ("error", 1),
    "class names alike": ("warning", 1),
    "class without objects": ("warning", 1),
    "class missing from a split": ("warning", 2),
    "class with few objects": ("warning", 4),
    "picture without objects": ("note", 1),
}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """The folder of a checked data set, beside it all that can be written."""
    folder = tmp_path_factory.mktemp("check")
    write_set(folder / "set")
    before = {path: path.read_bytes() for path in (folder / "set").rglob("*") if path.is_file()}
    arguments = ["--html", "page.html", "--examples", "examples.png", "--fix", "fixed"]
    place = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["check", "set", *arguments]) == 3
    finally:
        os.chdir(place)
    assert {path: path.read_bytes() for path in (folder / "set").rglob("*") if path.is_file()} == before
    return folder


def check_json(capsys, *arguments: object) -> dict:
    capsys.readouterr()
    main(["check", "--json", *map(str, arguments)])
    return json.loads(capsys.readouterr().out)


def kinds(report: dict) -> dict[str, tuple[str, int]]:
    counts = Counter(finding["kind"] for finding in report["findings"])
    return {finding["kind"]: (finding["severity"], counts[finding["kind"]]) for finding in report["findings"]}


def test_every_kind_of_blemish_is_found(checked, capsys):
    report = check_json(capsys, checked / "set")
    found = kinds(report)
    assert {kind: found.get(kind) for kind in EXPECTED} == EXPECTED
    places = {finding["kind"]: finding["file"] for finding in report["findings"]}
    assert places["unreadable picture"] == str(checked / "set" / "train" / "broken.png")
    assert report["counts"]["error"] == sum(f["count"] for f in report["findings"] if f["severity"] == "error")
    assert [row["name"] for row in report["splits"]] == ["train", "val"]
    assert report["classes"][1]["objects"] == {"train": 4, "val": 1}


def test_text_lists_the_findings_and_ends_with_their_number(checked, capsys):
    assert main(["check", str(checked / "set")]) == 3
    out = capsys.readouterr().out
    for kind in EXPECTED:
        assert re.search(rf"^(error|warning|note): {kind}( \(\d+\))?$", out, re.MULTILINE), kind
    assert re.fullmatch(r"\d+ errors, \d+ warnings, \d+ notes?", out.splitlines()[-1])


def test_the_mended_copy_has_nothing_left_to_mend(checked, capsys):
    before, after = kinds(check_json(capsys, checked / "set")), kinds(check_json(capsys, checked / "fixed"))
    mended = set(EXPECTED) - {"class missing from a split", "class with few objects", "picture without objects"}
    assert mended & before.keys() == mended
    assert not mended & after.keys()
    assert check_json(capsys, checked / "fixed")["counts"]["error"] == 0


def test_exit_status_is_that_of_the_worst_finding(tmp_path, capsys):
    for split, seeds in (("train", range(30)), ("val", range(30, 34))):
        for seed in seeds:
            save_picture(tmp_path / "set" / split / f"{seed}.png", seed)
        (tmp_path / "set" / split / "label.csv").write_text(
            "filename,class,xmin,ymin,xmax,ymax\n" + "".join(f"{seed}.png,cat,10,10,40,38\n" for seed in seeds)
        )
    assert main(["check", str(tmp_path / "set")]) == 0
    with (tmp_path / "set" / "train" / "label.csv").open("a") as file:
        file.write("0.png,cat,50,30,70,40\n")
    assert main(["check", str(tmp_path / "set")]) == 1
    assert (
        "label.csv, line 32: the box (50, 30, 70, 40) lies partly outside its 64x48 picture" in capsys.readouterr().out
    )
    with (tmp_path / "set" / "train" / "label.csv").open("a") as file:
        file.write("0.png,cat,20,30,20,40\n")
    assert main(["check", str(tmp_path / "set")]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["set", "--fix", "set/fixed"], "set/fixed: lies inside set"),
        (["set", "--fix", "."], "holds files already"),
        (["set", "--workers", "0"], "--workers: expected at least 1, got 0"),
        (["set", "--image-size", "4"], "--image-size: expected at least 32, got 4"),
        (["set", "--classes", "a,a"], "--classes: expected"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(checked, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(checked)
    assert main(["check", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("tinyssd: error: ")
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_long_lists_are_cut_and_all_lists_them(capsys):
    items = [thing(0, (90, 10, 110, 20 + i), line=i + 2) for i in range(25)]
    report = examine(snapshot([picture("a.png", *items)]), TinySSDConfig(2))
    assert "... and 5 more; --all lists them" in to_text(report)
    assert to_text(report, listed=None).count("lies partly outside") == 25
    assert len([f for f in json.loads(to_json(report))["findings"] if "outside" in f["message"]]) == 25


def test_columns_of_names_in_any_script_are_aligned():
    names = ("cat", "猫猫", "e\u0301te\u0301", "x" * 90)
    text = to_text(examine(snapshot([picture("a.png", thing(0))], names=names), TinySSDConfig(2)))
    start = text.index("  class ")
    rest = " " * 38
    assert text[start:].splitlines()[:5] == [
        f"  class{rest}  train  val  an anchor meets",
        f"  cat  {rest}      1    0             100%",
        f"  猫猫 {rest}      0    0                -",
        f"  e\u0301te\u0301  {rest}      0    0                -",
        f"  {'x' * 40}...      0    0                -",
    ]


def test_long_tables_of_classes_are_cut():
    report = examine(snapshot([picture("a.png", thing(0))], names=[*map(str, range(104))]), TinySSDConfig(2))
    assert "  ... and 4 more; --all lists them" in to_text(report).splitlines()
    assert "\n  103 " in to_text(report, listed=None)


def test_an_interrupt_does_not_wait_for_the_other_pictures(monkeypatch):
    seen = []

    def decode(path):
        seen.append(path)
        time.sleep(0.001)
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyssd.check.snapshot.read_picture", decode)
    pictures = [picture(f"{i}.png") for i in range(2000)]
    with pytest.raises(KeyboardInterrupt):
        take_snapshot(snapshot(pictures).data, workers=2)
    assert len(seen) < 1000


def test_nothing_that_a_terminal_obeys_is_printed():
    names = ("\x1b[31mred", "a\nerror: forged")
    hostile = Problem("bad\x1bkind", "error", "message \x9b2J", Path("file\x07name"), 3)
    report = examine(
        snapshot([picture("\x1b]0;title\x07.png", thing(0))], names=names, problems=[hostile]), TinySSDConfig(2)
    )
    text = to_text(report)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert not re.search(r"^error: forged", text, re.MULTILINE)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", to_json(report))


def test_the_proposed_configuration_can_be_trained_with(tmp_path):
    items = [thing(0, (10 * i, 10, 10 * i + 6, 16)) for i in range(30)]
    report = examine(snapshot([picture("a.png", *items, size=(300, 100))]), TinySSDConfig(2))
    line = to_text(report).partition("a file with this:\n")[2].splitlines()[0]
    (tmp_path / "anchors.json").write_text(line)
    assert TinySSDConfig(2, **read_config_file(tmp_path / "anchors.json")["model"]) != TinySSDConfig(2)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 130).map(float)
OBJECTS = st.builds(thing, st.integers(-3, 4), st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.none(), st.booleans())
PICTURES = st.lists(
    st.builds(
        lambda name, items, turned: picture(name, *items, turned=turned),
        st.sampled_from(("a.png", "b.png", "<i>.png")),
        st.lists(OBJECTS, max_size=5),
        st.integers(1, 8),
    ),
    max_size=4,
)


@settings(max_examples=40)
@given(train=PICTURES, val=PICTURES, names=st.lists(st.text(max_size=8), max_size=3))
def test_no_label_breaks_a_report_or_the_mended_copy(train, val, names):
    data = snapshot(train, val, names)
    report = examine(data, TinySSDConfig(2, (64, 64)))
    assert to_text(report)
    json.loads(to_json(report))
    for _, _, item in data.objects():
        assert all(-1 <= value <= 2 for value in drawn_corners(item, (100, 80)))
    mended = examine(Snapshot(mend(data).data, data.pixels), TinySSDConfig(2, (64, 64)))
    left = {group.kind for group in mended.groups}
    assert not left & {"box without area", "box outside its picture", "class without name", "class names alike"}


def test_examples_are_drawn_with_their_boxes(checked):
    with Image.open(checked / "examples.png") as image:
        image.load()
        assert image.width > 500


class Page(HTMLParser):
    """A page as its tags, attributes and text; fails where tags do not match."""

    VOID = ("meta", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read_page(source: str) -> Page:
    return Page(source)


def test_the_page_needs_nothing_else_and_says_everything(checked, capsys):
    page = read_page((checked / "page.html").read_text(encoding="utf-8"))
    text = "".join(page.text)
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    report = check_json(capsys, checked / "set")
    assert page.tags["li"] == len(report["findings"])
    for finding in report["findings"]:
        assert finding["message"] in text
    for name in NAMES:
        assert name in text
    # Each example shows its boxes, ignored or not, under the name of the class.
    assert page.tags["rect"] >= sum(row["objects"] for row in report["splits"]) - 1
    assert page.tags["figure"] == 6 + 2  # Training pictures that can be decoded, and a pair.


def test_the_page_of_a_set_without_objects():
    from tinyssd.check.report_html import to_html

    page = read_page(to_html(examine(snapshot(names=()), TinySSDConfig(2))))
    assert "no picture for train" in "".join(page.text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to look at the page with")
def test_a_browser_shows_what_the_page_says(checked, tmp_path):
    source = (checked / "page.html").read_text(encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    url = (checked / "page.html").as_uri()
    dom = subprocess.run([*command, "--dump-dom", url], capture_output=True, timeout=60, check=True).stdout.decode()
    shown, written = read_page(dom), read_page(source)
    assert [text.strip() for text in shown.text if text.strip()] == [t.strip() for t in written.text if t.strip()]
    assert shown.tags["figure"] == written.tags["figure"]
    shot = tmp_path / "page.png"
    subprocess.run(
        [*command, "--window-size=1000,3000", f"--screenshot={shot}", url], capture_output=True, timeout=60, check=True
    )
    with Image.open(shot) as image:
        colors = {color for _, color in image.convert("RGB").getcolors(maxcolors=1 << 24)}
    severities = re.findall(r"--(error|warning|note): #(\w{6})", source)
    assert len(severities) == 3
    assert {tuple(bytes.fromhex(value)) for _, value in severities} <= colors


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("bccd", [], {"box without area": ("error", 2), "picture with few boxes": ("warning", 15)}),
        ("chess", [], {"class without objects": ("warning", 1)}),
        (
            "okra",
            [
                "--classes",
                "okraFlower,okraFruit,okraBud,okraSeed,pepperFlower,greenPepper,redPepper,pepperSeed,"
                "eggplantFlower,eggplantFruit,eggplantSeed,eggplantBud",
            ],
            {"class without objects": ("warning", 9)},
        ),
        ("pikachu", [], {"box sizes and anchors": ("note", 1)}),
    ],
)
def test_blemishes_of_real_data_sets(name, options, expected, capsys):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not there")
    report = check_json(capsys, SHARED / name, *options)
    found = kinds(report)
    assert {kind: found.get(kind) for kind in expected} == expected
    if name == "bccd":
        files = {Path(f["file"]).stem for f in report["findings"] if f["kind"] == "box without area"}
        assert files == {"BloodImage_00338", "BloodImage_00343"}
    if name == "chess":
        assert any("pieces" in note for note in report["notes"])
        assert any("'bishop'" in finding["message"] for finding in report["findings"])
