"""torchvision's detectors, unmodified, on the kernels of this package."""

from __future__ import annotations

import copy

import cases
import pytest
import torch

from tinyssd_ops import torchvision as ours

MODELS = {
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"box_score_thresh": 0.01},
    "retinanet_resnet50_fpn": {"min_size": 96, "max_size": 128},
}


@pytest.fixture(scope="module")
def theirs():
    return cases.torchvision()


_BUILT = {}


def build(theirs, name):
    """A model with random weights; one of its kind is enough."""
    if name not in _BUILT:
        torch.manual_seed(3)
        make = getattr(theirs.models.detection, name)
        _BUILT[name] = make(weights=None, weights_backbone=None, num_classes=4, **MODELS[name])
    return copy.deepcopy(_BUILT[name])


def pictures(count=2):
    g = cases.generator(5)
    images = [torch.rand(3, 90 + 20 * i, 120, generator=g) for i in range(count)]
    targets = [
        {
            "boxes": cases.random_boxes(3, 7 + i, side=0.5) * 80 + torch.tensor([0, 0, 5, 5]),
            "labels": torch.tensor([1, 2, 3]),
        }
        for i in range(count)
    ]
    return images, targets


def detections(model, images):
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()(images)


def training_step(model):
    images, targets = pictures()
    torch.manual_seed(0)
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("name", MODELS)
def test_patched_models(theirs, name):
    model, (images, _) = build(theirs, name), pictures()
    calls = []
    expected = detections(model, images)
    with ours.patched(), torch.profiler.profile() as profile:
        found = detections(model, images)
    calls = {event.key for event in profile.key_averages()}
    assert calls & {"tinyssd_ops::nms", "tinyssd_ops::batched_nms"} or not _native()
    assert sum(len(one["boxes"]) for one in expected) > 10
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODELS)
def test_patched_training(theirs, name):
    expected = training_step(build(theirs, name))
    with ours.patched():
        found = training_step(build(theirs, name))
    torch.testing.assert_close(found, expected)


def _native():
    import tinyssd_ops

    return tinyssd_ops.info()["backends"]["cpu"]["backend"] == "native"


def test_functions_imported_before(theirs, monkeypatch):
    """A module that took the functions by name has ours inside the block, and torchvision's after it."""
    import sys
    import types

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


class Suppress(torch.nn.Module):
    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torchvision

        return torchvision.ops.nms(boxes, scores, 0.5)


def test_scripted_and_exported(theirs):
    """Made before the patch or inside it, they run on ours inside and on torchvision's outside."""
    boxes, scores = cases.disjoint(2), torch.tensor([0.5, cases.NAN])  # the NaN ranks last here, first there
    nms = theirs.ops.nms
    exported = torch.export.export(Suppress(), (boxes, scores.nan_to_num())).module()
    before = torch.jit.script(nms)
    with ours.patched():
        inside = torch.jit.script(theirs.ops.boxes.nms)
        for function in (before, inside, exported):
            assert function(boxes, scores).tolist() == [0, 1]
    for function in (before, inside, exported):
        assert function(boxes, scores).tolist() == [1, 0]


def test_without_torchvision(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError), ours.patched():
        pass
