"""The page of a run: how it went, how good the network is, where it fails, how to use it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyssd.data.source import Source
from tinyssd.drawing.page import PageBox, bar, figure, page, swatch, table, text
from tinyssd.report.charts import Line, chart
from tinyssd.report.findings import FOUND_IOU, ClassRow, Curve, PictureFindings, by_class, confusion
from tinyssd.run.checkpoint import Trained
from tinyssd.text import plural

_WORST, _BEST = 8, 4
# A larger matrix cannot be read.
_MOST_CLASSES = 30
_DRAWN = 200
# Names of more boxes than this would cover a picture of this size.
_NAMED = 5
# COCO's, in pixels of the network's input.
_SIZES = ("small", "medium", "large")
# What a row of metrics.jsonl has besides parts of the loss.
_KNOWN = {"epoch", "loss", "learning_rate", "class_error", "offset_mae", "ap", "ap50", "best_threshold", "seconds"}
_KNOWN |= {"images_per_second"}


@dataclass(frozen=True)
class RunFacts:
    """What the page is made of.

    Attributes:
        folder: Of the run.
        trained: What it made.
        history: Rows of ``metrics.jsonl``.
        source: The validation pictures.
        pictures: Those that were looked at.
        notes: Lines about the data.
    """

    folder: Path
    trained: Trained
    history: Sequence[dict[str, Any]]
    source: Source
    pictures: Sequence[PictureFindings]
    notes: Sequence[str]


def to_html(run: RunFacts) -> str:
    """The page. All text from the data set is escaped, and free of what is not printable."""
    config = run.trained.config
    rows, every = by_class(run.pictures, len(config.class_names), config.model.image_size)
    sections = (
        _header(run, every),
        *_training(run.history),
        *_classes(run, rows, every),
        *_confidence(run, every),
        *_confusion(run),
        *_pictures(run),
        *_data(run),
        _use(run),
    )
    return page(f"{run.folder.resolve().name}: AP50 {_number(every.ap50)}", sections)


def _header(run: RunFacts, every: ClassRow) -> str:
    config = run.trained.config
    height, width = config.model.image_size
    weights = sum(parameter.numel() for parameter in run.trained.model.parameters())
    seconds = sum(row["seconds"] for row in run.history)
    backbone = f", backbone {config.backbone}" if config.backbone else ""
    facts = (
        f"{width}x{height} pixels, {weights:,} parameters{backbone}, "
        f"{plural(len(run.history), 'epoch')} in {seconds:,.0f} s; data set {config.data.name}"
    )
    badges = "".join(
        f'<span class="badge note">{name} {_number(value)}</span>'
        for name, value in (("AP50", every.ap50), ("AP", every.ap))
    )
    count = f"{len(run.pictures)} validation pictures"
    if len(run.pictures) < len(run.source):
        count = f"{len(run.pictures)} of {len(run.source)} validation pictures"
    return (
        f'<header><h1>{text(run.folder.resolve().name)}</h1><p class="quiet">{text(facts)}</p>'
        f'<p>{badges} <span class="quiet">on {count}</span></p></header>'
    )


def _training(history: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not history:
        return
    epochs = [row["epoch"] for row in history]

    def line(name: str, key: str) -> Line:
        return Line(name, epochs, [math.nan if row.get(key) is None else row[key] for row in history])

    numbers = {key for row in history for key, value in row.items() if isinstance(value, (int, float))}
    parts = sorted(numbers - _KNOWN)
    losses = [line("loss", "loss"), *(line(part.replace("_", " "), part) for part in parts)]
    yield "<h2>Training</h2>"
    charts = [
        chart(losses, "epoch", "loss, mean per picture"),
        chart([line("AP50 (IoU 0.50)", "ap50"), line("AP (IoU 0.50 to 0.95)", "ap")], "epoch", "AP", share=True),
    ]
    if "learning_rate" in numbers:
        charts.append(chart([line("learning rate", "learning_rate")], "epoch", "learning rate"))
    yield f'<div class="charts">{"".join(charts)}</div>'


def _classes(run: RunFacts, rows: Sequence[ClassRow], every: ClassRow) -> Iterator[str]:
    yield "<h2>Classes</h2>"
    yield (
        "<p>Average precision as COCO defines it: over IoUs from 0.50 to 0.95 (AP), at 0.50 (AP50), and for objects of "
        "less than 32x32, up to 96x96 and more pixels of the network's input. Precision and recall at the class's "
        f"confidence threshold, IoU {FOUND_IOU:.2f}.</p>"
    )
    head = ("class", "objects", "AP50", "AP", *(f"AP {size}" for size in _SIZES), "threshold", "precision", "recall")
    names, thresholds = run.trained.config.class_names, run.trained.score_thresholds
    body = [
        _class_row(f"{swatch(i)}{text(name)}", row, thresholds[i])
        for i, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    if len(rows) > 1:
        body.append(_class_row("<b>all</b>", every, None))
    yield table(head, body)


def _class_row(name: str, row: ClassRow, threshold: float | None) -> tuple[str, ...]:
    precision, recall = (math.nan, math.nan) if threshold is None else row.curve.at(threshold)
    ap50 = "-" if math.isnan(row.ap50) else f"{bar(row.ap50)}{row.ap50:.3f}"
    sure = "-" if threshold is None else f"{threshold:.2f}"
    sizes = map(_number, row.by_size)
    return (name, str(row.objects), ap50, _number(row.ap), *sizes, sure, _percent(precision), _percent(recall))


def _confidence(run: RunFacts, every: ClassRow) -> Iterator[str]:
    curve = every.curve
    if not len(curve.confidence):
        return
    yield "<h2>Precision and recall over confidence</h2>"
    yield (
        "<p>Of all classes together: of the results from a confidence on, the share that found an object of their "
        f"class (precision, IoU {FOUND_IOU:.2f}), and the share of the objects found (recall). Dashed: the threshold, "
        "the mean of the classes' own.</p>"
    )
    grid = np.linspace(0, 1, 201)
    precision, recall = (np.array(values) for values in zip(*(curve.at(one) for one in grid), strict=True))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    lines = [Line("precision", grid, precision), Line("recall", grid, recall), Line("F1", grid, f1)]
    charts = chart(lines, "confidence", "share", mark=run.trained.score_threshold, share=True)
    charts += chart([_precision_recall(curve)], "recall", "precision", share=True)
    yield f'<div class="charts">{charts}</div>'


def _precision_recall(curve: Curve) -> Line:
    return Line(
        "precision", np.concatenate(([0], curve.recall)), np.concatenate((curve.precision[:1], curve.precision))
    )


def _confusion(run: RunFacts) -> Iterator[str]:
    names = run.trained.config.class_names
    if len(names) > _MOST_CLASSES:
        return
    counts = confusion(run.pictures, len(names))
    yield "<h2>Confusion</h2>"
    yield (
        "<p>What an object (row) was called (column) by the surest result on it; results where no object is, and "
        "objects that nothing found.</p>"
    )
    shades = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    body = []
    for i, row in enumerate(counts):
        name = f"{swatch(i)}{text(names[i])}" if i < len(names) else "<i>no object</i>"
        last = i == len(names)
        cells = [
            "" if last and j == len(names) else _shaded(int(count), shades[i, j], right=i == j)
            for j, count in enumerate(row)
        ]
        body.append((name, *cells))
    yield table(("", *(f"{swatch(i)}{text(name)}" for i, name in enumerate(names)), "<i>not found</i>"), body)


def _shaded(count: int, share: float, right: bool) -> str:
    color = "47, 158, 68" if right else "208, 59, 59"
    return f'<span class="cell" style="background:rgba({color}, {0.75 * share:.2f})">{count}</span>'


def _pictures(run: RunFacts) -> Iterator[str]:
    ranked = sorted(run.pictures, key=lambda picture: picture.quality)
    worst = [picture for picture in ranked if picture.quality < 1][:_WORST]
    best = [picture for picture in reversed(ranked) if len(picture.truth) and picture not in worst][:_BEST]
    legend = (
        "<p>Coloured: what the network finds, from the confidence threshold on; dashed where no labelled object is. "
        "White, dashed: objects that it does not find. Names show under the pointer. The quality is the panoptic one: "
        "hits by their IoU, over hits, false results and missed objects.</p>"
    )
    for title, chosen in (("Where it fails most", worst), ("Where it does best", best)):
        if chosen:
            yield f"<h2>{title}</h2>"
            yield legend if title.startswith("Where it fails") else ""
            yield f'<div class="grid">{"".join(_figure(run, picture) for picture in chosen)}</div>'


def _figure(run: RunFacts, picture: PictureFindings) -> str:
    example, names = run.source.example(picture.index, 0), run.trained.config.class_names
    shown = np.flatnonzero(picture.sure)
    taken = {int(picture.object_of[i]) for i in shown}
    missed = [row for i, row in enumerate(picture.truth) if i not in taken]
    boxes = [PageBox(_corners(row[1:]), None, f"not found: {names[int(row[0])]}", True, False) for row in missed]
    for i in shown[::-1][-_DRAWN:]:  # The surest on top.
        one = picture.found[i]
        false = picture.object_of[i] < 0
        boxes.append(
            PageBox(one.box, one.class_index, f"{one.label} {one.score:.0%}", bool(false), len(shown) <= _NAMED)
        )
    path = getattr(run.source, "paths", {})
    name = path[picture.index].name if path else f"picture {picture.index}"
    too_many = int((picture.object_of[shown] < 0).sum())
    counts = f"objects {len(picture.truth)}, missed {len(missed)}, too many {too_many}"
    caption = f"{name}: quality {picture.quality:.2f}, {counts}"
    return figure(example.image, boxes[:_DRAWN], caption)


def _corners(row: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in row)
    return x1, y1, x2, y2


def _data(run: RunFacts) -> Iterator[str]:
    if run.notes:
        yield "<h2>Data</h2>"
        yield "".join(f"<p>{text(note)}</p>" for note in run.notes)


def _use(run: RunFacts) -> str:
    folder = shlex.quote(str(run.folder))
    lines = (
        f"tinyssd predict photo.jpg --run {folder}",
        f"tinyssd eval {folder}",
        f"tinyssd export {folder} --format onnx",
    )
    code = (
        "from tinyssd import Run\n\n"
        f"for found in Run({str(run.folder)!r}).predict('photo.jpg'):\n"
        "    print(found.label, found.score, found.box)"
    )
    shell = "\n".join(text(line) for line in lines)
    return f"<h2>Use it</h2><pre>{shell}</pre><p>In Python:</p><pre>{_lines(code)}</pre>"


def _lines(code: str) -> str:
    return "\n".join(text(line) for line in code.split("\n"))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"
