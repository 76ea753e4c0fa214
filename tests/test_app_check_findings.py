"""Each check of a data set, on snapshots made by hand."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from app_check import ROOT, picture, pixels, snapshot, thing
from tinyssd.check import boxes, classes, pictures
from tinyssd.check.anchors import anchors_and_sizes, fit_anchors
from tinyssd.check.boxes import DOUBLED_IOU, clipped, doubles, overlap
from tinyssd.check.pictures import find_twins, same_boxes
from tinyssd.check.report import CHECKS, SEVERITIES, examine
from tinyssd.data.labels import Problem
from tinyssd.model.network import TinySSDConfig

LABELS = ROOT / "labels.csv"


def found(check, of):
    return list(check(of))


def test_a_faultless_set_has_no_finding():
    box = (10, 10, 60, 60)
    train = [picture(f"t{i}.png", thing(i % 2, box)) for i in range(40)]
    val = [picture(f"v{i}.png", thing(i % 2, box)) for i in range(4)]
    report = examine(snapshot(train, val), TinySSDConfig(2))
    assert [group.kind for group in report.groups] == ["class balance", "box sizes and anchors"]
    assert report.worst == "note"


@pytest.mark.parametrize(
    ("box", "severity", "message"),
    [
        ((-3, 0, 50, 50), "warning", r"\(-3, 0, 50, 50\) lies partly outside its 100x80 picture a.png"),
        ((50, 50, 101, 80), "warning", "partly outside"),
        ((50, 50, 90, 80.6), "warning", "partly outside"),
        ((120, 10, 150, 30), "error", "wholly outside its 100x80 picture a.png$"),
        ((4000, 2000, 6000, 3000), "error", "pixels where shares of the picture are expected"),
    ],
)
def test_a_box_outside_is_found_with_file_and_line(box, severity, message):
    (finding,) = boxes.boxes_outside(snapshot([picture("a.png", thing(0, box, line=7))]))
    assert (finding.severity, finding.file, finding.line) == (severity, LABELS, 7)
    assert re.search(message, finding.message)


@pytest.mark.parametrize("box", [(0, 0, 100, 80), (-0.4, 0, 100.4, 80), (1, 1, 2, 2), (50, 50, 50, 200)])
def test_rounding_is_not_outside_and_a_box_without_area_is_another_finding(box):
    assert not found(boxes.boxes_outside, snapshot([picture("a.png", thing(0, box))]))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((30, 30, 30, 30), "has no area"),
        ((30, 30, 60, 30), "has no area"),
        ((60, 60, 30, 30), "corners in the wrong order"),
        ((60, 10, 30, 30), "corners in the wrong order"),
    ],
)
def test_a_box_without_area_is_told_from_swapped_corners(box, message):
    (finding,) = boxes.boxes_without_area(snapshot([picture("a.png", thing(0, box, line=3))]))
    assert message in finding.message
    assert (finding.severity, finding.line) == ("error", 3)


def test_doubled_boxes_exactly_nearly_and_with_two_classes():
    items = [
        thing(0, (0, 0, 50, 50), line=1),
        thing(0, (0, 0, 50, 50), line=2),
        thing(0, (0, 0, 50, 49), line=3),
        thing(1, (0, 0, 50, 50), line=4),
        thing(1, (0, 0, 50, 30), line=5),
        thing(0, (20, 20, 20, 20), line=6),
        thing(0, (20, 20, 20, 20), line=7),
    ]
    findings = found(boxes.doubled_boxes, snapshot([picture("a.png", *items)]))
    assert [(finding.line, finding.message.partition("a.png ")[2]) for finding in findings] == [
        (2, "stands there twice: cat, first in line 1"),
        (3, "stands there twice: cat, first in line 1"),
        (4, "has two classes: cat and dog, first in line 1"),
    ]


def test_overlap_is_the_iou_and_decides_at_its_threshold():
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    height = 100 * DOUBLED_IOU
    just, below = thing(0, (0, 0, 10, height)), thing(0, (0, 0, 10, height - 0.1))
    assert len(list(doubles(picture("a.png", thing(0, (0, 0, 10, 100)), just)))) == 1
    assert len(list(doubles(picture("a.png", thing(0, (0, 0, 10, 100)), below)))) == 0


def test_doubles_are_those_of_a_comparison_of_all_with_all():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 3, (300, 2)) * 40 + rng.normal(0, 1, (300, 2))
    items = [thing(i % 2, (x, y, x + 35, y + 30 + i % 3)) for i, (x, y) in enumerate(corners.tolist())]
    kept, expected = [], []
    for item in items:
        near = [k for k in kept if k.class_id == item.class_id and overlap(k.box, item.box) >= DOUBLED_IOU]
        expected += [(id(item), id(near[0]))] if near else []
        kept += [] if near else [item]
    assert 50 < len(expected) < 290
    assert [(id(a), id(b)) for a, b in doubles(picture("a.png", *items))] == expected


def test_very_many_boxes_take_no_time():
    items = [thing(0, (i % 5000, i // 5000, i % 5000 + 5, i // 5000 + 5)) for i in range(30_000)]
    assert not list(doubles(picture("a.png", *items)))


def test_clipped_boxes_lie_inside():
    assert clipped((-5, -5, 200, 200), (100, 80)) == (0, 0, 100, 80)
    x1, _, x2, _ = clipped((150, 10, 200, 20), (100, 80))
    assert x1 == x2


def test_boxes_drawn_before_the_turn():
    wide = thing(0, (60, 10, 95, 40))  # Fits 100x80, the stored picture, and not 80x100.
    small = thing(0, (10, 10, 40, 40))
    turned = {"size": (80, 100), "turned": 6}
    data = snapshot([picture("a.jpg", wide, **turned), picture("b.jpg", small, **turned), picture("c.jpg", turned=6)])
    (finding,) = boxes.boxes_before_turn(data)
    assert finding.severity == "error"
    assert "a.jpg is 100x80 as stored and 80x100 after its EXIF turn 6" in finding.message
    assert not found(boxes.boxes_outside, data)
    (note,) = boxes.turned_pictures(data)
    assert note.severity == "note"
    assert note.message.startswith("1 picture has an EXIF turn")
    assert note.file == ROOT / "b.jpg"


def test_classes_without_name():
    data = snapshot([picture("a.png", thing(2, line=4), thing(1), thing(-1, line=5))])
    assert [(f.line, f.message) for f in classes.unknown_classes(data)] == [
        (4, "class 2 in a.png has no name; the last class is 1"),
        (5, "class -1 in a.png has no name; the last class is 1"),
    ]
    (finding,) = classes.unknown_classes(snapshot([picture("a.png", thing(2), thing(1))]))
    assert finding.message.endswith("are the classes counted from 1?")


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("Dog", "cat", "dog"), [[0, 2], [1]]),
        (("traffic light", "Traffic-Light", "traffic_light"), [[0, 1, 2]]),
        (("STRASSE", "Straße"), [[0, 1]]),
        (("cafe\u0301", "café"), [[0, 1]]),
        (("Ωmega", "ω mega"), [[0, 1]]),
        (("犬", "猫"), [[0], [1]]),
        (("-", "_", " "), [[0], [1], [2]]),
        (("cat", "cats"), [[0], [1]]),
    ],
)
def test_names_that_differ_in_writing_only(names, groups):
    assert classes.alike(names) == groups
    assert len(found(classes.names_alike, snapshot(names=names))) == sum(len(group) > 1 for group in groups)


def test_classes_without_objects_and_missing_from_a_split():
    data = snapshot([picture("a.png", thing(0))], [picture("b.png", thing(1), thing(0))], names=("cat", "dog", "ghost"))
    (phantom,) = classes.phantom_classes(data)
    assert "'ghost' has no object" in phantom.message
    (missing,) = classes.missing_from_split(data)
    assert missing.message == "the class 'dog' has no object in train, but 1 in val; it cannot be learnt"
    assert missing.severity == "error"
    other = snapshot([picture("a.png", thing(0), thing(1))], [picture("b.png", thing(1))])
    (finding,) = classes.missing_from_split(other)
    assert (finding.severity, finding.message.partition(";")[2]) == ("warning", " nothing there measures it")


def test_ignored_objects_do_not_make_a_class():
    (finding,) = classes.phantom_classes(snapshot([picture("a.png", thing(0), thing(1, ignored=True))]))
    assert "'dog'" in finding.message


def test_class_balance():
    even = snapshot([picture("a.png", *[thing(i % 2) for i in range(40)])])
    (note,) = classes.class_balance(even)
    assert (note.severity, note.message.endswith("has 20: 1.0 to 1")) == ("note", True)
    uneven = snapshot([picture("a.png", thing(1), *[thing(0)] * 100)])
    few, balance = classes.class_balance(uneven)
    assert "'dog' has 1 object to train on" in few.message
    assert (balance.severity, "100.0 to 1" in balance.message) == ("warning", True)
    assert not found(classes.class_balance, snapshot([picture("a.png", *[thing(0)] * 30)]))


def test_pictures_with_few_boxes_of_a_class_that_fills_the_others():
    full = [picture(f"{i}.png", *[thing(0)] * 12) for i in range(5)]
    thin = [picture("thin.png", *[thing(0)] * 3), picture("none.png", thing(1)), picture("empty.png")]
    findings = found(classes.thinly_labelled, snapshot([*full, *thin]))
    assert [f.message for f in findings] == [
        "thin.png has 3 objects of the class 'cat', half of the pictures have 12 or more; has each one a box?",
        "none.png has 0 objects of the class 'cat', half of the pictures have 12 or more; has each one a box?",
    ]
    assert not found(classes.thinly_labelled, snapshot([picture("a.png", thing(0)), picture("b.png", thing(1))]))


def test_unreadable_pictures():
    broken = replace(pixels("x"), error="cannot read this picture (truncated)")
    (finding,) = pictures.unreadable_pictures(snapshot([picture("a.png")], decoded={"a.png": broken}))
    assert str(finding) == f"{ROOT / 'a.png'}: cannot read this picture (truncated)"


def test_missing_splits_and_empty_pictures():
    assert [f.message for f in pictures.missing_splits(snapshot())] == ["no picture for train", "no picture for val"]
    (finding,) = pictures.pictures_without_objects(snapshot([picture("a.png")], [picture("b.png", thing())]))
    assert (finding.severity, finding.file) == ("note", ROOT / "a.png")
    (finding,) = pictures.pictures_without_objects(snapshot([picture("a.png")]))
    assert finding.severity == "warning"


def test_the_same_picture_in_two_splits():
    train = [picture("a.png", thing()), picture("other.png")]
    data = snapshot(train, [picture("b.png"), picture("c.png")], decoded={"b.png": pixels("a.png")})
    (finding,) = pictures.same_pictures(data)
    assert (finding.severity, finding.kind) == ("error", "same picture in two splits")
    assert str(finding) == f"{ROOT / 'b.png'}: this (val) and a.png (train) are the same picture"


@pytest.mark.parametrize(
    ("box", "kind"),
    [((12, 10, 62, 60), "nearly the same picture in two splits"), ((60, 20, 90, 70), "same place in two splits")],
)
def test_pictures_alike_are_told_apart_by_their_boxes(box, kind):
    noise = np.random.default_rng(0).integers(0, 9, pixels("a.png").outline.shape, dtype=np.uint8)
    near = replace(pixels("a.png"), digest=b"", outline=pixels("a.png").outline // 2 + noise)
    data = snapshot([picture("a.png", thing())], [picture("b.png", thing(0, box))], decoded={"b.png": near})
    (finding,) = pictures.same_pictures(data)
    assert finding.kind == kind


def test_flat_and_broken_pictures_are_like_no_other():
    flat, broken = replace(pixels("a"), outline=np.full((17, 17), 9, np.uint8)), replace(pixels("a"), error="no")
    decoded = {"a.png": flat, "b.png": replace(flat, digest=b"b"), "c.png": broken, "d.png": broken}
    data = snapshot([picture("a.png"), picture("c.png")], [picture("b.png"), picture("d.png")], decoded=decoded)
    assert find_twins(data) == []


def test_same_boxes_is_symmetric_and_minds_classes_and_sizes():
    a, b = (
        picture("a.png", thing(0, (0, 0, 50, 40)), thing(1)),
        picture("b.png", thing(0, (0, 0, 100, 80)), size=(200, 160)),
    )
    assert same_boxes(a, b) == same_boxes(b, a) == pytest.approx(0.5)
    assert same_boxes(picture("a.png"), picture("b.png")) == 1
    assert same_boxes(picture("a.png", thing(0)), picture("b.png", thing(1))) == 0


def test_anchors_meet_objects_of_their_own_size():
    size = TinySSDConfig(2).sizes[1][0]
    box = tuple(100 * value for value in (0.5 - size / 2, 0.5 - size / 2, 0.5 + size / 2, 0.5 + size / 2))
    fit = fit_anchors(snapshot([picture("a.png", thing(0, box), size=(100, 100))]), TinySSDConfig(2))
    assert (fit.objects, fit.now.met, fit.best) == (1, 1.0, fit.now)
    (finding,) = anchors_and_sizes(snapshot(), fit)
    assert (finding.severity, "meets 100% of the 1 objects" in finding.message) == ("note", True)


def test_small_objects_get_a_proposal_that_keeps_its_word():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 900, (200, 2))
    sides = rng.uniform(60, 90, (200, 2))
    items = [thing(0, (*c, *(c + s))) for c, s in zip(corners, sides, strict=True)]
    data, network = snapshot([picture("a.png", *items, size=(1000, 1000))]), TinySSDConfig(2)
    fit = fit_anchors(data, network)
    assert fit.now.met == 0
    assert sum(band.objects for band in fit.bands) == 200
    assert fit.best.met > 0.8
    again = fit_anchors(data, replace(network, **fit.best.config["model"]))
    assert again.now.met == fit.best.met
    (finding,) = anchors_and_sizes(data, fit)
    assert finding.severity == "warning"
    assert f"with {fit.best.title} it would be {fit.best.met:.0%}" in finding.message


def test_a_small_class_that_no_anchor_meets_is_named():
    large, small = (100, 100, 500, 500), (100, 100, 140, 140)
    items = [*[thing(0, large)] * 95, *[thing(1, small)] * 5]
    data = snapshot([picture("a.png", *items, size=(1000, 1000))])
    fit = fit_anchors(data, TinySSDConfig(2))
    assert fit.now.by_class == {0: 1.0, 1: 0.0}
    (finding,) = anchors_and_sizes(data, fit)
    assert (finding.severity, "but 0% of the class 'dog'" in finding.message) == ("warning", True)


def test_objects_that_nobody_trains_on_do_not_count_for_anchors():
    items = [thing(0, ignored=True), thing(5), thing(0, (30, 30, 30, 30)), thing(0, (200, 200, 300, 300))]
    assert fit_anchors(snapshot([picture("a.png", *items)], [picture("b.png", thing())]), TinySSDConfig(2)) is None
    assert not found(lambda s: anchors_and_sizes(s, None), snapshot())


def test_report_groups_by_severity_and_counts_what_stands_for_many():
    problems = [
        Problem("bad line", "error", "b", LABELS, 9),
        Problem("bad line", "error", "and more of this kind: bad line", count=41),
        Problem("bad line", "error", "a", LABELS, 2),
        Problem("names alike", "warning", "said again by the check"),
    ]
    report = examine(snapshot(names=("cat", "Cat"), problems=problems), TinySSDConfig(2))
    order = [SEVERITIES.index(group.severity) for group in report.groups]
    assert order == sorted(order)
    (bad,) = (group for group in report.groups if group.kind == "bad line")
    assert (bad.count, [finding.line for finding in bad.findings]) == (43, [2, 9, None])
    assert Counter(group.kind for group in report.groups)["class names alike"] == 1
    assert "names alike" not in {group.kind for group in report.groups}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_checks_take_a_set_without_anything(check):
    assert all(finding.severity == "error" for finding in check(snapshot(names=())))
