"""The package as a program of one's own uses it: the two examples of its docstring."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tinyssd
import torch
from PIL import Image

from tinyssd_ops import multibox_target


def test_every_public_name_is_there():
    for name in tinyssd.__all__:
        assert getattr(tinyssd, name).__doc__
    assert dir(tinyssd) == tinyssd.__all__ == sorted(tinyssd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tinyssd.nothing


def test_import_does_not_wait_for_torch():
    code = "import sys, tinyssd; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loop_of_ones_own_and_a_picture_of_any_mode():
    torch.manual_seed(0)
    source = tinyssd.SyntheticSource(8, 64)
    model = tinyssd.TinySSD(num_classes=len(source.class_names) + 1, image_size=(64, 64))
    pictures = tinyssd.Pictures(source, (64, 64), tinyssd.AugmentConfig())
    loader, sampler = tinyssd.make_loader(pictures, batch_size=4, shuffle_seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for sampler.epoch in range(4):
        for images, labels in loader:
            anchors, scores, offsets = model(tinyssd.to_input(images))
            targets, mask, classes = multibox_target(anchors, labels)
            loss = tinyssd.detection_loss(scores, offsets, classes, targets, mask, tinyssd.LossConfig()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    for mode in ("RGB", "RGBA", "L", "P"):
        found = tinyssd.predict_picture(model.eval(), Image.new(mode, (90, 50)), source.class_names, 0.01)
        assert found
        assert all(detection.label in source.class_names for detection in found)
        assert tinyssd.drawn_detections(Image.new(mode, (90, 50)), found).mode == "RGB"
