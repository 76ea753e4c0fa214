"""The page of a run: its numbers are those of the evaluation, and no name can break it."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tinyssd.cli import main
from tinyssd.data.config import DataConfig
from tinyssd.data.source import Example
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.evaluation.evaluate import average_precision
from tinyssd.model.network import TinySSD, TinySSDConfig
from tinyssd.prediction.predict import Detection
from tinyssd.report import findings
from tinyssd.report.charts import Line, chart
from tinyssd.report.findings import Curve, by_class, confusion
from tinyssd.report.page import RunFacts, to_html
from tinyssd.run.board import log_epoch
from tinyssd.run.checkpoint import Trained, save_checkpoint
from tinyssd.run.config import RunConfig

SIZE = (32, 32)
NAMES = ("<script>alert(1)</script>", "_$\\frac{1}{2}$ \x1b[31m方\u202e&amp;")
ROWS = [
    {"epoch": 1, "loss": 3.0, "box_loss": 1.0, "class_loss": 2.0, "ap": None, "ap50": None, "seconds": 2.0},
    {"epoch": 2, "loss": 1.5, "box_loss": 0.5, "class_loss": 1.0, "ap": 0.3, "ap50": 0.5, "seconds": 2.0},
]


class Source:
    """Pictures with given labels."""

    class_names, max_boxes = NAMES, 3

    def __init__(self, labels):
        self.labels = [np.array(rows, dtype=np.float32).reshape(-1, 5) for rows in labels]

    def __len__(self):
        return len(self.labels)

    def example(self, index, epoch):
        return Example(Image.new("RGB", (64, 32), "teal"), self.labels[index])


def network(classes=3):
    torch.manual_seed(0)
    config = TinySSDConfig(
        classes, SIZE, ((8,), (8,), ()), ((0.2, 0.3), (0.4, 0.5), (0.8, 0.9)), ((1.0, 2.0, 0.5),) * 3
    )
    return TinySSD.from_config(config).eval()


LEFT, RIGHT, FAR = (0.1, 0.1, 0.4, 0.5), (0.6, 0.1, 0.9, 0.5), (0.1, 0.6, 0.4, 0.9)


def matched(labels, found, threshold=0.5):
    example = Source([labels]).example(0, 0)
    detections = [Detection(NAMES[c], c, score, box) for c, score, box in found]
    return findings._matched(0, example, detections, np.array([threshold] * 2))


def test_confusion_counts_every_object_once():
    pictures = [
        matched([(0, *LEFT), (1, *RIGHT)], [(0, 0.9, LEFT), (0, 0.8, RIGHT), (1, 0.7, FAR)]),
        matched([(1, *LEFT)], [(1, 0.4, LEFT)]),  # Not sure enough.
        matched([(-2, *LEFT)], [(0, 0.9, LEFT)]),  # An ignored object: counts for nobody.
        matched([(0, *LEFT)], [(0, 0.9, LEFT), (0, 0.8, LEFT)]),  # The second is too many.
        matched([(0, *LEFT)], [(1, 0.4, LEFT), (0, 0.3, LEFT)], threshold=0.3),
        matched([], []),
    ]
    assert confusion(pictures, 2).tolist() == [[2, 1, 0], [1, 0, 1], [2, 1, 0]]
    assert [round(picture.quality, 3) for picture in pictures] == [0.4, 0.0, 0.0, 0.667, 0.0, 1.0]


def test_numbers_are_those_of_the_evaluation():
    generator = np.random.default_rng(0)
    labels, found = [], []
    for _ in range(20):
        low = generator.random((3, 2)) * 0.5
        truth = np.concatenate((low, low + 0.1 + generator.random((3, 2)) * 0.4), axis=1)
        classes = generator.integers(-3, 2, 3)
        labels.append([(c, *box) for c, box in zip(classes, truth, strict=True) if c != -1])
        moved = truth + generator.normal(0, 0.03, truth.shape)
        rows = zip(generator.integers(0, 2, 3), generator.random(3), moved, strict=True)
        found.append(sorted(((int(c), float(s), tuple(map(float, b))) for c, s, b in rows), key=lambda row: -row[1]))
    pictures = [matched(rows, results) for rows, results in zip(labels, found, strict=True)]
    rows, every = by_class(pictures, 2, SIZE)
    predictions = [np.array([(c + 1, s, *b) for c, s, b in results]) for results in found]
    wanted = average_precision(predictions, [np.array(one, np.float32).reshape(-1, 5) for one in labels], 2, SIZE)
    assert every.ap == wanted.ap
    assert every.ap50 == wanted.ap50
    assert tuple(row.ap for row in rows) == wanted.per_class
    assert every.objects == sum(row.objects for row in rows) == sum(c >= 0 for one in labels for c, *_ in one)
    assert all(0 < row.curve.at(0.0)[1] <= 1 for row in rows)


def test_order_of_equal_confidences_changes_nothing():
    generator = np.random.default_rng(0)
    truth = [np.array([(0, *LEFT), (0, *RIGHT), (1, *FAR)], np.float32)] * 3
    rows = [np.array([(1 + i % 2, 0.5, *(np.array(box) + 0.02 * i)) for i, box in enumerate((LEFT, LEFT, RIGHT, FAR))])]
    wanted = repr(average_precision(rows * 3, truth, 2, SIZE))  # As text: a NaN does not equal itself.
    for _ in range(5):
        assert repr(average_precision([generator.permutation(rows[0]) for _ in range(3)], truth, 2, SIZE)) == wanted


def test_curve_by_hand():
    curve = Curve(np.array([0.9, 0.8, 0.3]), np.array([1.0, 0.5, 2 / 3]), np.array([0.5, 0.5, 1.0]), 2)
    assert curve.at(0.85) == (1.0, 0.5)
    assert curve.at(0.3) == (2 / 3, 1.0)
    precision, recall = curve.at(0.95)
    assert math.isnan(precision)
    assert recall == 0


class Strict(html.parser.HTMLParser):
    """Collects the tags and attributes of a page, and whether all are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "image", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect", "image"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def facts(tmp_path, labels, history=ROWS):
    model = network()
    trained = Trained(model, RunConfig(NAMES, model.config, DataConfig()), 0.35, (0.35, 0.35))
    source = Source(labels)
    pictures = findings.look(trained, source, 100)
    return RunFacts(tmp_path / "a 'run' <b>", trained, history, source, pictures, ["data: <i>\x07"])


def test_page_holds_everything_and_no_name_breaks_it(tmp_path):
    page = to_html(facts(tmp_path, [[(0, *LEFT), (1, *RIGHT), (-2, *FAR)], [], [(1, *FAR)]]))
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert not parser.tags & {"script", "i\x07", "b>"}
    assert not {name for name in parser.attributes if name.startswith("on")} | (parser.attributes & {"src"})
    words = " ".join(parser.words)
    for name in ("Training", "Classes", "Precision and recall", "Confusion", "Where it fails most", "Data", "Use it"):
        assert name in words
    for name in ("box loss", "class loss", "AP50 (IoU 0.50)"):
        assert name in words
    assert NAMES[0] in words
    assert r"_$\frac{1}{2}$ \x1b[31m方\u202e&amp;" in words
    assert "://" not in page.replace("http://www.w3.org", "")
    assert not set(page) & {"\x1b", "\x07", "\u202e"}


def test_page_of_a_run_that_knows_nothing(tmp_path):
    page = to_html(facts(tmp_path, [[]], history=[]))
    assert "Training" not in page
    assert "AP50 -" in page


def test_more_pictures_than_looked_at(tmp_path):
    one = facts(tmp_path, [[]])
    pictures = findings.look(one.trained, Source([[]] * 7), 3)
    assert [picture.index for picture in pictures] == [0, 2, 4]


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for row in ROWS:
        log_epoch(tmp_path, {**row, "ap_per_class": [None, row["loss"]]}, ("a", "b/c\x1b"))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("box_loss")] == [(1, 1.0), (2, 0.5)]
    assert [(one.step, one.value) for one in events.Scalars(r"ap by class/b_c\x1b")] == [(1, 3.0), (2, 1.5)]
    assert [one.step for one in events.Scalars("ap50")] == [2]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_without_tensorboard_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    log_epoch(tmp_path, ROWS[0], NAMES)
    assert list(tmp_path.iterdir()) == []


def test_chart_takes_the_colour_of_its_page():
    svg = chart([Line("a", [1, 2], [0.5, math.nan]), Line("b", [1, 2], [1, 2])], "epoch", "loss")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "<metadata>" not in svg


def test_command(tmp_path, capsys):
    names = SyntheticSource(1, 32).class_names
    model = network(len(names) + 1)
    config = RunConfig(names, model.config, DataConfig(train_size=4, val_size=4))
    run = tmp_path / "run"
    run.mkdir()
    progress = {"epoch": 1, "step": 0, "loss_sum": 0.0, "history": []}
    contents = {"config": config.to_dict(), "model": model.state_dict(), "progress": progress}
    save_checkpoint(run / "checkpoint.pt", contents)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"wrote {run / 'report.html'}\n"
    assert "<h2>Training</h2>" in (run / "report.html").read_text()
    (run / "metrics.jsonl").write_text("{")
    assert main(["report", str(run)]) == 2
    assert "metrics.jsonl: damaged" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["report", "nowhere"], ["export", "nowhere"]])
def test_no_such_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "nowhere" in capsys.readouterr().err
