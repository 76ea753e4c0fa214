"""The post-processors and the matcher that replace those of torchvision's SSD and RetinaNet, on drawn predictions."""

from __future__ import annotations

import types

import cases
import pytest
import torch

from tinyssd_ops import _torchvision_models as models
from tinyssd_ops import torchvision as ours

SHAPES = [(64, 80), (80, 64), (50, 50)]
CLASSES = 5


@pytest.fixture(scope="module")
def detection():
    return cases.torchvision().models.detection


def drawn(kind, g, num_anchors, background):
    """Logits [3, A, C] and deltas [3, A, 4]."""
    logits = torch.randn(3, num_anchors, CLASSES, generator=g) * 2
    if kind == "likely":  # Most anchors are background, as a trained model has it.
        logits -= 4
        logits[..., 0] += 8 * background
    elif kind == "nothing":
        logits -= 90
        logits[..., 0] += 190 * background
    elif kind == "broken":
        logits[0, ::3, 1] = cases.NAN
        logits[1, ::50, 2] = cases.INF
    return logits, torch.randn(3, num_anchors, 4, generator=g)


def settings(coder, **changes):
    return {
        "box_coder": coder,
        "score_thresh": 0.05,
        "nms_thresh": 0.45,
        "detections_per_img": 40,
        "topk_candidates": 30,
        **changes,
    }


def compare(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for rows in (one, other):  # by label and place: scores may differ in the last bit
            order = sorted(
                range(len(rows["labels"])), key=lambda i, r=rows: (int(r["labels"][i]), *r["boxes"][i].tolist())
            )
            rows.update({name: part[order] for name, part in rows.items()})
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


CHANGES = [
    {},
    {"topk_candidates": 1000, "detections_per_img": 1000},
    {"topk_candidates": 3},
    {"detections_per_img": 0},
    {"nms_thresh": 1.5},
    {"score_thresh": 0.0},
    {"score_thresh": -1.0},
    {"score_thresh": 1.0},
    {"score_thresh": 0.9},
]


@pytest.mark.parametrize("kind", ["likely", "wild", "nothing", "broken"])
@pytest.mark.parametrize("changes", CHANGES)
def test_ssd(detection, kind, changes):
    g = cases.generator(3)
    numbers = settings(detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0)), **changes)
    logits, deltas = drawn(kind, g, 203, background=1)
    anchors = [cases.random_boxes(203, 4, side=0.6) * 60] * 3
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    model = types.SimpleNamespace(**numbers)
    with ours.patched():  # its own nms shifts and rounds coordinates
        expected = detection.ssd.SSD.postprocess_detections(model, outputs, anchors, SHAPES)
    compare(models.SSDPostprocessor(**numbers)(outputs, anchors, SHAPES), expected)


@pytest.mark.parametrize("kind", ["likely", "wild", "nothing", "broken"])
@pytest.mark.parametrize("changes", CHANGES)
def test_retinanet(detection, kind, changes):
    g = cases.generator(3)
    numbers = settings(detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0)), **changes)
    logits, deltas = drawn(kind, g, 203, background=0)
    sizes = [150, 50, 3]
    anchors = [list((cases.random_boxes(203, 4, side=0.6) * 60).split(sizes))] * 3
    outputs = {"cls_logits": list(logits.split(sizes, 1)), "bbox_regression": list(deltas.split(sizes, 1))}
    model = types.SimpleNamespace(**numbers)
    with ours.patched():
        expected = detection.retinanet.RetinaNet.postprocess_detections(model, outputs, anchors, SHAPES)
    compare(models.RetinaNetPostprocessor(**numbers)(outputs, anchors, SHAPES), expected)


@pytest.mark.parametrize("dtype", cases.HALVES)
def test_half_precision(detection, dtype):
    """The filter in front of the softmax loses nothing that rounding lifts above the threshold."""
    g = cases.generator(8)
    numbers = settings(detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0)), score_thresh=0.01, nms_thresh=1.0)
    logits = torch.randn(3, 400, CLASSES, generator=g).to(dtype)
    numbers["topk_candidates"] = 10**6
    found = models.SSDPostprocessor(**numbers)._candidates(logits)
    assert len(found.score) == (logits.softmax(-1)[..., 1:] > 0.01).sum()
    found, counts = models.RetinaNetPostprocessor(**numbers)._candidates([logits])
    assert counts == (logits.sigmoid() > 0.01).sum((1, 2)).tolist()
    assert len(found.score) == sum(counts)


@pytest.mark.parametrize("ssd", [True, False])
def test_matcher(detection, ssd):
    utils = detection._utils
    anchors = [cases.random_boxes(300, 1, side=0.5)] * 4
    targets = [{"boxes": cases.random_boxes(n, n, side=0.5)} for n in (3, 0, 9, 1)]
    for threshold in (0.3, 0.5):
        theirs = utils.SSDMatcher(threshold) if ssd else utils.Matcher(threshold, 0.2, allow_low_quality_matches=True)
        found = models.Matcher(theirs.high_threshold, theirs.low_threshold, theirs.allow_low_quality_matches, ssd)(
            anchors, targets
        )
        for i, target in enumerate(targets):
            if len(target["boxes"]) == 0:
                assert found[i].tolist() == [-1] * 300  # what torchvision's loop makes of it
            else:
                expected = theirs(cases.torchvision().ops.box_iou(target["boxes"], anchors[i]))
                assert torch.equal(found[i], expected)


def test_matcher_of_unlike_anchors():
    match = models.Matcher(0.5, 0.5, False, True)
    boxes = cases.random_boxes(3)
    for other in (boxes + 1, boxes[:2]):
        with pytest.raises(ValueError, match="anchors: expected the same for every picture"):
            match([boxes, other], [{"boxes": boxes}] * 2)


def rare(shape, seed):
    """Few values above 3, among them NaN and infinities, which are in no block and at the ends too."""
    g = cases.generator(seed)
    values = torch.randn(shape, generator=g).flatten()
    values[torch.randint(len(values), (60,), generator=g)] = 9
    values[torch.randint(len(values), (9,), generator=g)] = cases.NAN
    values[torch.randint(len(values), (9,), generator=g)] = cases.INF
    values[torch.randint(len(values), (9,), generator=g)] = -cases.INF
    values[0] = values[-1] = 8
    return values.view(shape)


@pytest.mark.parametrize("length", [7, 256, 257, 200_001])
@pytest.mark.parametrize("least", [3.0, 8.0, 100.0, -1.0, -cases.INF])
def test_few_values_are_found(length, least):
    """In no, one and many blocks and after the last, those of a slice as well."""
    values = rare((2, length + 3), length)[:, 3:]
    row, column = models._not_below(values, least)
    expected = (~(values < least)).nonzero(as_tuple=True)
    assert torch.equal(row, expected[0])
    assert torch.equal(column, expected[1])


@pytest.mark.parametrize("anchors", [5, 512, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *cases.HALVES])
@pytest.mark.parametrize("classes", [CLASSES, 65, 91])
def test_likely_anchors_leave_out_none(anchors, dtype, classes):
    logits = rare((3, anchors, classes), anchors).to(dtype)
    logits[..., 0] += 6
    odds = logits[..., 1:].amax(dim=-1).float() - logits[..., 0].float()
    torch.testing.assert_close(models._odds(logits), odds, rtol=0, atol=0, equal_nan=True)
    wanted = (~(odds < 2.0)).flatten().nonzero().squeeze(1)
    found = models._likely_anchors(logits, 2.0)
    assert torch.equal(found, found.unique())
    assert torch.isin(wanted, found).all()
    if anchors == 2000:
        assert len(found) < 0.9 * 3 * anchors
