"""The network: its published outputs, its order of anchors, its configuration."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tinyssd.errors import ConfigError
from tinyssd.model.loss import LossConfig, detection_loss
from tinyssd.model.network import TinySSD, TinySSDConfig

from tinyssd_ops import multibox_prior, multibox_target

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "model_eval.npz"
PARTS = {"blk": "stages", "cls": "class_heads", "offset": "offset_heads"}
SMALL = {
    "image_size": (64, 48),
    "widths": ((8, 8), (8,), ()),
    "sizes": ((0.2, 0.3), (0.4, 0.5, 0.6), (0.8,)),
    "ratios": ((1.0, 2.0), (1.0,), (1.0, 0.5, 2.0)),
}


def golden_weights(golden: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in golden.items():
        match = re.fullmatch(r"w:(blk|cls|offset)_(\d)\.(.*)", name)
        if match is None:
            continue
        part, stage, rest = match.groups()
        # The file leaves out the block's number where a stage has one block.
        rest = f"0.{rest}" if part == "blk" and stage != "0" else rest
        tensor = torch.from_numpy(value)
        weights[f"{PARTS[part]}.{stage}.{rest}"] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden vectors (shared/golden) are not here")
def test_golden_weights_give_the_golden_outputs():
    with np.load(GOLDEN) as file:
        golden = dict(file)
    model = TinySSD(2).eval()
    model.load_state_dict(golden_weights(golden))
    with torch.no_grad():
        anchors, scores, offsets = model(torch.from_numpy(golden["x"]).float())
    for output, name in ((anchors, "anchors"), (scores, "cls_preds"), (offsets, "offset_preds")):
        np.testing.assert_allclose(output.numpy(), golden[name], atol=1e-3)
    targets, mask, classes = multibox_target(anchors, torch.from_numpy(golden["label"]))
    loss = detection_loss(scores, offsets, classes, targets, mask, LossConfig.classic())
    np.testing.assert_allclose(loss.numpy(), golden["loss"], atol=1e-3)
    assert (scores.argmax(-1) == classes).sum() == golden["cls_err_count"]
    assert ((offsets - targets) * mask).abs().sum().item() == pytest.approx(golden["offset_abs_sum"].item(), abs=1e-1)


def test_default_network_has_5444_anchors():
    anchors = TinySSD(2).anchors
    assert anchors.shape == (1, 5444, 4)
    torch.testing.assert_close(anchors[:, : 32 * 32 * 4], multibox_prior(32, 32, [0.2, 0.272], [1, 2, 0.5]))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_shapes_of_a_configured_network(batch):
    model = TinySSD(5, **SMALL).eval()
    anchors, scores, offsets = model(torch.zeros(batch, 3, 64, 48))
    count = 16 * 12 * 3 + 8 * 6 * 3 + 3
    assert anchors.shape == (1, count, 4)
    assert scores.shape == (batch, count, 5)
    assert offsets.shape == (batch, 4 * count)


def test_order_is_stage_row_column_anchor():
    model = TinySSD(3, **SMALL).eval()
    with torch.no_grad():
        for head in (*model.class_heads, *model.offset_heads):
            head.weight.zero_()
            head.bias.copy_(torch.arange(len(head.bias)))
        _, scores, offsets = model(torch.randn(2, 3, 64, 48))
    first = torch.arange(9.0).view(3, 3).repeat(16 * 12, 1)
    torch.testing.assert_close(scores[1, : len(first)], first)
    torch.testing.assert_close(offsets[1, :24], torch.arange(12.0).repeat(2))
    torch.testing.assert_close(scores[0, -3:], torch.arange(9.0).view(3, 3))


def test_channels_last_gives_the_same():
    torch.manual_seed(0)
    model = TinySSD(2, **SMALL).eval()
    images = torch.randn(2, 3, 64, 48)
    expected = model(images)
    actual = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_compiles_to_one_graph():
    torch.manual_seed(0)
    model = TinySSD(2, **SMALL).eval()
    images = torch.randn(1, 3, 64, 48)
    # "aot_eager" traces all that a full compilation does, and needs no C++ compiler.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-4)


def test_predict_returns_padded_rows_inside_the_picture():
    torch.manual_seed(0)
    rows, counts = TinySSD(3, **SMALL).eval().predict(torch.randn(2, 3, 64, 48), 0.2, max_detections=7)
    assert rows.shape == (2, 7, 6)
    for row, count in zip(rows, counts.tolist(), strict=True):
        assert (row[:count, 0] > 0).all()
        assert (row[count:, 0] == -1).all()
    assert rows[..., 2:].min() >= 0
    assert rows[..., 2:].max() <= 1


def test_predict_in_training_mode_is_an_error():
    with pytest.raises(RuntimeError, match=r"call eval\(\) first"):
        TinySSD(3, **SMALL).predict(torch.zeros(1, 3, 64, 48))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes: expected at least 2"),
        ({"num_classes": 2, "sizes": ((0.2,),)}, "one entry for each stage"),
        ({"num_classes": 2, "image_size": (32, 32)}, "too small"),
        ({"num_classes": 2, "image_size": (256,)}, "expected height and width"),
        ({"num_classes": 2, "sizes": ((0.2, -0.3),) * 5}, "sizes: expected positive numbers"),
        ({"num_classes": 2, "ratios": ((),) * 5}, "at least one in each stage"),
        ({"num_classes": 2, "widths": ((), (8,), (8,), (8,), ())}, "first stage"),
    ],
)
def test_bad_architecture_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        TinySSDConfig(**settings)


def test_wrong_size_of_pictures_is_an_error():
    with pytest.raises(ValueError, match=r"images: expected \[B, 3, 64, 48\], got \[1, 3, 32, 32\]"):
        TinySSD(2, **SMALL)(torch.zeros(1, 3, 32, 32))


def test_made_on_meta():
    """Made without memory, filled from a checkpoint: the anchors, which it does not hold, are right."""
    model = TinySSD(num_classes=2, **SMALL)
    with torch.device("meta"):
        empty = TinySSD(num_classes=2, **SMALL)
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty.anchors, model.anchors)
    images = torch.rand(1, 3, 64, 48)
    for one, two in zip(empty.eval()(images), model.eval()(images), strict=True):
        assert torch.equal(one, two)
