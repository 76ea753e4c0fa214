"""Average precision: pycocotools' numbers, and the same ones whatever the order of what is given."""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict

import numpy as np
import pytest
from tinyssd.evaluation.evaluate import average_precision, coco_evaluation
from tinyssd.report.findings import _matches


def boxes(random, count):
    """[count, 4], of any size, some of them on a coarse grid, so that IoUs are equal."""
    center, sides = random.uniform(0, 1, (count, 2)), np.exp(random.uniform(np.log(0.02), np.log(0.9), (count, 2)))
    corners = np.concatenate((center - sides / 2, center + sides / 2), axis=1).clip(0, 1)
    return np.round(corners * 10) / 10 if random.random() < 0.4 else corners


def problem(seed, most=250):
    """Equal confidences, ignored objects, empty pictures, up to ``most`` results: the arguments of an evaluation."""
    random = np.random.default_rng(seed)
    classes, steps = int(random.choice([1, 2, 5])), random.choice([4, 10, 1000])
    predictions, truth = [], []
    for _ in range(random.integers(5, 10)):
        objects, results = random.integers(0, 15), random.choice([0, 1, 5, 40, most])
        labels = np.concatenate((random.integers(0, classes, (objects, 1)), boxes(random, objects)), axis=1)
        labels[:, 0] = np.where(random.random(objects) < 0.2, -2 - labels[:, 0], labels[:, 0])
        found, called = boxes(random, results), random.integers(1, classes + 1, results)
        if objects:
            near = random.random(results) < 0.6
            noise = random.normal(0, 0.02, (results, 4)) * (random.random((results, 1)) < 0.7)
            source = labels[random.integers(0, objects, results)]
            found[near] = (source[:, 1:] + noise)[near].clip(0, 1)
            right = near & (random.random(results) < 0.8) & (source[:, 0] >= 0)
            called[right] = source[right, 0] + 1
        found = np.concatenate((np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])), axis=1)
        scores = np.ceil(random.random((results, 1)) * steps) / steps
        rows = np.concatenate((called[:, None], scores, found), axis=1)
        predictions.append(rows.astype(np.float32))
        truth.append(labels.astype(np.float32))
    return predictions, truth, classes, tuple(random.integers(32, 700, 2).tolist())


def by_pycocotools(evaluation):
    """pycocotools' evaluation of the same annotations."""
    reason = "pycocotools, the peer, is not installed"
    coco = pytest.importorskip("pycocotools.coco", reason=reason)
    cocoeval = pytest.importorskip("pycocotools.cocoeval", reason=reason)
    both = []
    for one in (evaluation.cocoGt, evaluation.cocoDt):
        copied = coco.COCO()
        copied.dataset = {name: [dict(row) for row in rows] for name, rows in one.dataset.items()}
        both.append(copied)
    with contextlib.redirect_stdout(io.StringIO()):
        for one in both:
            one.createIndex()
        published = cocoeval.COCOeval(*both, "bbox")
        published.evaluate()
        published.accumulate()
    return published


@pytest.mark.parametrize("seed", range(8))
def test_the_numbers_are_those_of_pycocotools(seed):
    arguments = problem(seed)
    ours = coco_evaluation(*arguments)
    published = by_pycocotools(ours)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(ours.eval[name], published.eval[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_what_the_curves_of_the_report_are_made_of(seed):
    """The same results hit and count as pycocotools says of each picture; there are no more than its 100 of them."""
    arguments = problem(seed, most=90)
    published = by_pycocotools(coco_evaluation(*arguments))
    images, areas = len(published.params.imgIds), len(published.params.areaRng)
    matches = list(_matches(coco_evaluation(*arguments, iou_50_only=True), arguments[2]))
    for index, (scores, hits, objects) in enumerate(matches):
        rows = [one for one in published.evalImgs[index * areas * images :][:images] if one]
        wanted = [
            (score, match > 0)
            for one in rows
            for score, match, ignored in zip(one["dtScores"], one["dtMatches"][0], one["dtIgnore"][0], strict=True)
            if not ignored
        ]
        assert sorted(zip(scores.tolist(), hits.tolist(), strict=True)) == sorted(wanted)
        assert objects == sum(int((np.array(one["gtIgnore"]) == 0).sum()) for one in rows)
    assert sum(hits.sum() for _, hits, _ in matches) > 2


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_pictures_results_and_objects_changes_nothing(seed):
    predictions, truth, classes, size = problem(seed)
    wanted = average_precision(predictions, truth, classes, size)
    assert 0 < wanted.ap < 1
    random = np.random.default_rng(seed)
    for _ in range(4):
        order = random.permutation(len(truth))
        shuffled = [random.permutation(predictions[i]) for i in order], [random.permutation(truth[i]) for i in order]
        np.testing.assert_equal(asdict(average_precision(*shuffled, classes, size)), asdict(wanted))


def test_equal_confidences_of_several_pictures():
    """A hit and a miss with one confidence: either order would give another AP."""
    truth = [np.array([[0, 0.1, 0.1, 0.4, 0.4]], np.float32), np.array([[0, 0.5, 0.5, 0.9, 0.9]], np.float32)]
    found = [np.array([[1, 0.5, 0.1, 0.1, 0.4, 0.4]], np.float32), np.array([[1, 0.5, 0.0, 0.0, 0.2, 0.9]], np.float32)]
    one, other = average_precision(found, truth, 1), average_precision(found[::-1], truth[::-1], 1)
    assert one == other
    assert 0 < one.ap < 1
