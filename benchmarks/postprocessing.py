"""``python -m benchmarks.postprocessing``: the replaced post-processors and matchers beside torchvision's own.

Eight pictures, as SSD300 and as RetinaNet at 640x640 pixels with 91 classes have them, on drawn predictions: of a
trained model, in which few anchors see anything, and of a fresh one, in which nothing does; and matching of their
anchors to a dozen objects a picture. Both sides run in one process, turn by turn, and must find the same. Beside them
their sum, the quickest reading of all logits there is: no post-processor is done sooner.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import peers
from tinyssd_ops import _torchvision_models
from tinyssd_ops import torchvision as ours

_IMAGES, _CLASSES, _OBJECTS = 8, 91, 12


@dataclass(frozen=True)
class Predictions:
    """What a head gives for a batch, and what belongs to it."""

    logits: Tensor  # [B, A, C]
    deltas: Tensor  # [B, A, 4]
    anchors: Tensor  # [A, 4], pixels
    levels: list[int]  # anchors of each level
    side: int  # pixels of a picture

    def of_ssd(self) -> tuple[Any, ...]:
        """The arguments of ``SSD.postprocess_detections``."""
        outputs = {"cls_logits": self.logits, "bbox_regression": self.deltas}
        return outputs, [self.anchors] * _IMAGES, [(self.side, self.side)] * _IMAGES

    def of_retinanet(self) -> tuple[Any, ...]:
        """Those of ``RetinaNet.postprocess_detections``: the head's outputs are split, as its ``forward`` does."""
        outputs = {
            "cls_logits": list(self.logits.split(self.levels, dim=1)),
            "bbox_regression": list(self.deltas.split(self.levels, dim=1)),
        }
        anchors = list(self.anchors.split(self.levels))
        return outputs, [anchors] * _IMAGES, [(self.side, self.side)] * _IMAGES


def main(argv: Sequence[str]) -> int:
    """Measures; prints a table."""
    options = _parse(argv)
    if not peers.available("torchvision"):
        raise SystemExit(f"torchvision, to measure beside: {peers.find('torchvision')[1]}")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {_IMAGES} pictures; medians of {options.rounds} rounds, ms")
    print("| what | predictions | threads | torchvision | here | ratio | one reading | ratio of that |")
    print("|---|---|---|---|---|---|---|---|")
    for name, kind, *sides in _sides(options.filter):
        for threads in options.threads:
            torch.set_num_threads(threads)
            old, *others = (1e3 * seconds for seconds in _medians(sides, options.rounds))
            cells = " | ".join(f"{new:.2f} | {old / new:.1f}" for new in others)
            print(f"| {name} | {kind} | {threads} | {old:.1f} | {cells} |{' | |' * (len(others) == 1)}", flush=True)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.postprocessing", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--filter", default="", help="only rows whose name holds this")
    parser.add_argument("--rounds", type=int, default=15, help="of both sides (default: %(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    return parser.parse_args(argv)


def _sides(wanted: str) -> list[tuple[Any, ...]]:
    """Name, kind of predictions, torchvision's call, ours, and of a post-processor one reading of what it searches."""
    sides: list[tuple[Any, ...]] = []
    for name, make in (("SSD300", _ssd), ("RetinaNet", _retinanet)):
        if wanted not in name:
            continue
        model, anchors, levels, side = make()
        for kind in ("trained", "fresh"):
            drawn = _drawn(anchors, levels, side, background=name == "SSD300", objects=_OBJECTS * (kind == "trained"))
            args = drawn.of_ssd() if name == "SSD300" else drawn.of_retinanet()
            theirs = partial(type(model).postprocess_detections, model, *args)
            ours.replace_postprocessor(model)
            mine = partial(model.postprocess_detections, *args)
            _agree(theirs(), mine())
            sides.append((name, kind, theirs, mine, drawn.logits.sum))
        sides.append((f"{name} matcher", f"{_OBJECTS} objects", *_matching(model, anchors, side)))
    return sides


def _matching(model: Any, anchors: Tensor, side: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The loop of ``SSD.forward`` and ``RetinaNet.compute_loss``, and what takes its place."""
    from torchvision.ops import box_iou  # type: ignore[import-untyped,import-not-found,unused-ignore]

    targets = [{"boxes": _objects(_OBJECTS, side)} for _ in range(_IMAGES)]
    every = [anchors.clone() for _ in range(_IMAGES)]  # a tensor a picture, as the models' generators make them

    def theirs() -> list[Tensor]:
        return [model.proposal_matcher(box_iou(one["boxes"], anchors)) for one in targets]

    mine = partial(_torchvision_models.matcher(model), every, targets)
    for one, other in zip(theirs(), mine(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    return theirs, mine


def _objects(count: int, side: int) -> Tensor:
    centres, sizes = torch.rand(count, 2) * side, (0.1 + 0.4 * torch.rand(count, 2)) * side
    return torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)


def _agree(theirs: list[dict[str, Tensor]], mine: list[dict[str, Tensor]]) -> None:
    for one, other in zip(theirs, mine, strict=True):
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-5, atol=1e-6)


def _ssd() -> tuple[Any, Tensor, list[int], int]:
    from torchvision.models.detection import ssd300_vgg16  # type: ignore[import-untyped,import-not-found,unused-ignore]

    model = ssd300_vgg16(weights=None, weights_backbone=None)
    return model, *_anchors(model, 300, (38, 19, 10, 5, 3, 1))


def _retinanet() -> tuple[Any, Tensor, list[int], int]:
    from torchvision.models.detection import retinanet_resnet50_fpn  # type: ignore[import-untyped,import-not-found,unused-ignore]  # fmt: skip

    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    return model, *_anchors(model, 640, (80, 40, 20, 10, 5))


def _anchors(model: Any, side: int, maps: tuple[int, ...]) -> tuple[Tensor, list[int], int]:
    from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped,import-not-found,unused-ignore]  # fmt: skip

    images = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
    anchors = model.anchor_generator(images, [torch.zeros(1, 1, n, n) for n in maps])[0]
    levels = [n * n * each for n, each in zip(maps, model.anchor_generator.num_anchors_per_location(), strict=True)]
    return anchors, levels, side


def _drawn(anchors: Tensor, levels: list[int], side: int, background: bool, objects: int) -> Predictions:
    """Logits of noise far below the threshold, but where an anchor overlaps one of the picture's objects."""
    logits = torch.randn(_IMAGES, len(anchors), _CLASSES) - (0 if background else 8)
    if background:
        logits[..., 0] += 10
    for picture in logits:
        overlap = ours.box_iou(anchors, _objects(objects, side))
        anchor, which = (overlap > 0.5).nonzero(as_tuple=True)
        picture[anchor, torch.randint(1, _CLASSES, (objects,))[which]] += 16 * overlap[anchor, which]
    return Predictions(logits, torch.randn(_IMAGES, len(anchors), 4) / 4, anchors, levels, side)


def _medians(sides: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            with torch.inference_mode():
                side()
            if turn > 0:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
