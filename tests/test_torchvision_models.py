"""torchvision's detectors, unmodified, on the kernels of this package."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
import types
import warnings
from unittest import mock

import cases
import pytest
import torch

import tinyssd_ops
from tinyssd_ops import torchvision as ours

MODELS = {
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {
        "box_score_thresh": 0.01,
        "box_batch_size_per_image": 32,
        "rpn_post_nms_top_n_train": 200,
        "rpn_post_nms_top_n_test": 200,
    },
    "retinanet_resnet50_fpn": {"min_size": 64, "max_size": 96, "score_thresh": 0.005, "topk_candidates": 200},
}


@pytest.fixture(scope="module")
def theirs():
    return cases.torchvision()


_BUILT = {}


def build(theirs, name):
    """A model with random weights; one of its kind is enough. Its backbone sees the same pictures again and again."""
    if name not in _BUILT:
        torch.manual_seed(3)
        make = getattr(theirs.models.detection, name)
        with without_drawing_layers() if name.startswith("ssd300") else contextlib.nullcontext():
            model = make(weights=None, weights_backbone=None, num_classes=4, **MODELS[name])
        # In float64, so that no two scores are equal by rounding; the gradient of the heads is enough.
        _BUILT[name] = model.double() if name.startswith("fasterrcnn") else model
        model.backbone.forward = remembered(model.backbone.eval().forward)
    return _BUILT[name]


@contextlib.contextmanager
def without_drawing_layers():
    """The fully connected layers of VGG, which SSD leaves out, take longer to draw than the rest of a test."""
    nn = torch.nn
    with mock.patch.object(nn.Linear, "reset_parameters"), mock.patch.object(nn.init, "normal_"):
        yield


def remembered(function):
    """Of the first picture; the second has its features mirrored, as a backbone takes most of a test's time."""
    last = []

    @torch.no_grad()
    def remembering(x):
        if not last or not torch.equal(last[0], x):
            last[:] = [x, {name: torch.cat((f, f.flip(3))) for name, f in function(x[:1]).items()}]
        return last[1].copy()

    return remembering


def pictures(model):
    """Two, as batch normalisation over one value of each is refused."""
    dtype = next(model.parameters()).dtype
    image = torch.rand(3, 90, 120, generator=cases.generator(5), dtype=dtype)
    boxes = cases.random_boxes(3, 7, side=0.5) * 80 + torch.tensor([0, 0, 5, 5])
    return [image, image.flip(2)], [{"boxes": boxes.to(dtype), "labels": torch.tensor([1, 2, 3])}] * 2


def detections(model):
    """Of each picture, with equal scores in the order of their boxes."""
    with torch.no_grad():
        found = model.eval()(pictures(model)[0])
    return [in_order(one) for one in found]


def in_order(found):
    return sorted(torch.stack((-found["scores"], *found["boxes"].T, found["labels"]), dim=1).tolist())


def by_place(rows):
    """Sorted by label and place, which the last bit of a score leaves alone."""
    return torch.tensor(sorted(rows, key=lambda row: row[:0:-1]))


def training_step(model):
    torch.manual_seed(0)
    losses = model.train()(*pictures(model))
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("backbone")}
    gradients = torch.autograd.grad(sum(losses.values()), list(learnt.values()), allow_unused=True)
    return {name: loss.detach() for name, loss in losses.items()}, [g for g in gradients if g is not None]


@pytest.fixture
def calls(monkeypatch):
    """The names of our operators that were called."""
    names = []
    for name in ("nms", "batched_nms", "box_iou"):
        function = getattr(tinyssd_ops.ops, name)
        monkeypatch.setattr(
            tinyssd_ops.ops, name, lambda *args, function=function: names.append(function.__name__) or function(*args)
        )
    return names


@pytest.mark.parametrize("name", MODELS)
def test_patched_models(theirs, calls, name):
    model = build(theirs, name)
    expected = detections(model)
    assert not calls
    with ours.patched():
        found = detections(model)
    assert "batched_nms" in calls
    assert len(expected[0]) > 10
    assert found == expected


@pytest.mark.parametrize("name", MODELS)
def test_patched_training(theirs, calls, name):
    model = build(theirs, name)
    expected = training_step(model)
    with ours.patched():
        found = training_step(model)
    assert "box_iou" in calls
    torch.testing.assert_close(found, expected)


DETECTORS = [name for name in MODELS if not name.startswith("fasterrcnn")]


@pytest.mark.parametrize("name", DETECTORS)
def test_replaced(theirs, name):
    """The post-processor and the matcher, beside torchvision's (with our ``nms``, which shifts no coordinates)."""
    model = build(theirs, name)
    with ours.patched():
        expected, step = detections(model), training_step(model)
    with replaced(model):
        found = detections(model)
        assert len(found[0]) > 10
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(by_place(one), by_place(other), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(training_step(model), step)


@contextlib.contextmanager
def replaced(model):
    """With the post-processor and the matcher, until the block ends."""
    matcher = model.proposal_matcher
    ours.replace_postprocessor(model)
    ours.replace_matcher(model)
    try:
        yield
    finally:
        del model.postprocess_detections, model.compute_loss
        model.proposal_matcher = matcher


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"])
def test_replaced_without_objects(theirs, name, monkeypatch):
    """None to learn in one picture, or in both; none found in any."""
    model = build(theirs, name)
    monkeypatch.setattr(model, "score_thresh", 0.999)
    images, targets = pictures(model)
    none = {key: part[:0] for key, part in targets[0].items()}

    @torch.no_grad()
    def run():
        losses = [model.train()(images, wanted) for wanted in ([targets[0], none], [none, none])]
        return losses, model.eval()(images)

    expected = run()
    with replaced(model):
        found = run()
    torch.testing.assert_close(found, expected)
    assert [one["boxes"].shape for one in found[1]] == [(0, 4)] * 2


def test_replaced_in_another_model(theirs):
    with pytest.raises(TypeError, match="model: expected torchvision's SSD or RetinaNet, got Linear"):
        ours.replace_postprocessor(torch.nn.Linear(1, 1))


def test_functions_imported_before(theirs, monkeypatch):
    """A module that took the functions by name has ours inside the block, and torchvision's after it."""
    user = types.ModuleType("a_user_of_torchvision")
    user.nms, user.overlap = theirs.ops.nms, theirs.ops.box_iou
    monkeypatch.setitem(sys.modules, user.__name__, user)
    point = torch.ones(1, 4)
    with ours.patched():
        assert user.nms is not theirs.ops.boxes._batched_nms_vanilla
        assert user.overlap(point, point).item() == 0  # torchvision's is NaN
        with ours.patched():
            assert user.overlap(point, point).item() == 0
        assert theirs.ops.boxes.box_iou(point, point).item() == 0
    assert user.overlap(point, point).isnan().all()
    assert theirs.ops.box_iou is user.overlap
    assert theirs.ops.nms is user.nms


def test_patch_for_good(theirs):
    scores = torch.tensor([0.5, cases.NAN])
    boxes = cases.disjoint(2)
    patch = ours.patch()
    try:
        assert theirs.ops.nms(boxes, scores, 0.5).tolist() == [0, 1]
        assert torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [0, 1]
    finally:
        patch.undo()
    assert torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1, 0]


@pytest.fixture
def is_patched(theirs, monkeypatch):
    """A function: whether all that was torchvision's is ours now, or none of it (anything else fails)."""
    user = types.ModuleType("a_user_of_torchvision")
    user.overlap = theirs.ops.box_iou
    monkeypatch.setitem(sys.modules, user.__name__, user)
    point, boxes, scores = torch.ones(1, 4), cases.disjoint(2), torch.tensor([0.5, cases.NAN])

    def ask():
        found = {
            user.overlap(point, point).item() == 0,
            theirs.ops.boxes.box_iou(point, point).item() == 0,
            torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [0, 1],
        }
        assert len(found) == 1
        return found.pop()

    assert not ask()
    return ask


def test_patches_that_end_in_any_order(theirs, is_patched):
    first, second = ours.patch(), ours.patch()
    for patch in (first, first, second):
        assert is_patched()
        patch.undo()
    assert not is_patched()
    with pytest.raises(KeyError), ours.patched():
        raise KeyError

    def patch_again_and_again():
        for _ in range(5):
            with ours.patched():
                pass

    threads = [threading.Thread(target=patch_again_and_again) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not is_patched()


def test_names_taken_inside_a_patch(theirs, monkeypatch):
    user = types.ModuleType("a_late_user_of_torchvision")
    monkeypatch.setitem(sys.modules, user.__name__, user)
    with ours.patched():
        user.nms = theirs.ops.nms
        assert pickle.loads(pickle.dumps(user.nms)) is user.nms
    assert user.nms is theirs.ops.nms


def test_what_a_patch_leaves_to_torchvision(theirs):
    g = cases.generator(4)
    rotated, boxes, scores = torch.rand(3, 5, generator=g), cases.random_boxes(5) * 10, cases.random_scores(5)
    quantized = [torch.quantize_per_tensor(t, 0.01, 0, torch.quint8) for t in (boxes, scores)]
    expected = theirs.ops.box_iou(rotated, rotated, fmt="cxcywhr"), theirs.ops.nms(*quantized, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ours.patched():
            found = theirs.ops.box_iou(rotated, rotated, "cxcywhr"), theirs.ops.nms(*quantized, iou_threshold=0.5)
    cases.assert_same(found, expected)


class Suppress(torch.nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torchvision

        return torchvision.ops.nms(boxes, scores, 0.5)


def test_scripted_and_exported(theirs):
    """Made before the patch or inside it, they run on ours inside and on torchvision's outside."""
    boxes, scores = cases.disjoint(2), torch.tensor([0.5, cases.NAN])  # the NaN ranks last here, first there
    exported = torch.export.export(Suppress(), (boxes, scores.nan_to_num())).module()
    before = torch.jit.script(theirs.ops.nms)
    with ours.patched():
        inside = torch.jit.script(theirs.ops.boxes.nms)
        for scripted in (before, inside):
            assert scripted(boxes, scores, 0.5).tolist() == [0, 1]
        assert exported(boxes, scores).tolist() == [0, 1]
    for scripted in (before, inside):
        assert scripted(boxes, scores, 0.5).tolist() == [1, 0]
    assert exported(boxes, scores).tolist() == [1, 0]


def test_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError), ours.patched():
        pass
