"""Every op in ONNX: exported with the one argument, run by onnxruntime, compared with the eager result bit for bit."""

from __future__ import annotations

import gc

import pytest
import torch
import torch._dynamo.testing

import tinyssd_ops as ops

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

from tinyssd_ops.onnx import translation_table  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        ops.info()["backends"]["cpu"]["backend"] != "native", reason="the reference has no node to find"
    ),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


class Calls(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def run_both(function, *tensors, dynamic_shapes=None, others=()):
    """The eager and onnxruntime's results, for the tensors of the export and for ``others``."""
    program = torch.onnx.export(
        Calls(function).eval(),
        tensors,
        dynamo=True,
        custom_translation_table=translation_table(),
        dynamic_shapes=None if dynamic_shapes is None else (dynamic_shapes,),
        verbose=False,
    )
    domains = {node.domain for node in program.model_proto.graph.node}
    assert domains <= {"", "ai.onnx"}, "operators of the standard alone"
    session = ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for given in (tensors, *others):
        names = [one.name for one in session.get_inputs()]
        found = session.run(None, dict(zip(names, (t.numpy() for t in given), strict=True)))
        yield function(*given), [torch.from_numpy(one) for one in found]


def assert_same(function, *tensors, **options):
    for wanted, found in run_both(function, *tensors, **options):
        for i, (one, other) in enumerate(zip(wanted, found, strict=True)):
            torch.testing.assert_close(
                other, one, rtol=0, atol=0, equal_nan=True, msg=lambda m, i=i: f"result {i}: {m}"
            )


def boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.rand(*shape, 4, generator=generator).split(2, dim=-1)
    return torch.cat((low, low + 0.4 * size), dim=-1)


def hard_scores(*shape):
    """With many ties, NaN and infinities."""
    scores = torch.rand(*shape, generator=torch.Generator().manual_seed(1)).mul(20).round().div(20)
    scores.view(-1)[[3, 17]] = torch.nan
    scores.view(-1)[[5, 7, 9]] = torch.tensor([torch.inf, -torch.inf, -torch.inf])
    return scores


def hard_boxes(*shape):
    """With inverted, empty and undefined ones, and boxes that are the same."""
    result = boxes(*shape)
    flat = result.view(-1, 4)
    flat[10:20] = flat[20:30]
    flat[30:34] = flat[30:34][:, [2, 3, 0, 1]]
    flat[34:38, 2] = flat[34:38, 0] - 0.1
    flat[38, 1], flat[39, 2], flat[40] = torch.nan, torch.inf, 0
    return result


def test_suppression():
    ids = torch.randint(-3, 4, (2, 100), generator=torch.Generator().manual_seed(2))

    def calls(b, s, ids):
        return (
            ops.nms(b[0], s[0], 0.3),
            ops.nms(b[0], s[0], 0.0),
            ops.batched_nms(b[0], s[0], ids[0], 0.3),
            *ops.nms_padded(b, s, 0.3, ids, 0.2, 30),
            *ops.nms_padded(b, s, 0.5),
            *ops.nms_padded(b, s, 1.0, max_output=150),
        )

    assert_same(calls, hard_boxes(2, 100), hard_scores(2, 100), ids)


def test_detection_with_any_number_of_pictures_and_ties():
    anchors = ops.multibox_prior(6, 6, [0.2, 0.4], [1, 2, 0.5])

    def inputs(pictures):
        generator = torch.Generator().manual_seed(pictures)
        probs = torch.randn(pictures, 4, anchors.shape[1], generator=generator).mul(3).softmax(dim=1)
        offsets = torch.randn(pictures, 4 * anchors.shape[1], generator=generator) * 3
        return probs.mul(10).round().div(10), offsets

    def calls(probs, offsets):
        return (
            *ops.detect(probs, offsets, anchors, 0.45, 0.1, 30),
            *ops.detect(probs, offsets, anchors, 0.3, 0.2, 10, class_agnostic=True),
            *ops.detect(probs, offsets, anchors, 0.45, 0.1, 1000),
            ops.multibox_detection(probs, offsets, anchors, 0.4, 0.3),
        )

    batch = torch.export.Dim("batch", min=1, max=64)
    assert_same(calls, *inputs(3), dynamic_shapes=({0: batch}, {0: batch}), others=(inputs(1), inputs(5)))


def test_boxes():
    def calls(a, b, offsets):
        pairs = [ops.iou_pairs(a, b, kind) for kind in ("iou", "giou", "diou")]
        return (
            ops.box_iou(a, b),
            *pairs,
            ops.iou_pairs(a[:50], b, "giou", aligned=True, eps=1e-7),
            ops.encode_boxes(a[:50], b),
            ops.decode_boxes(a, offsets),
            ops.corner_to_center(a),
            ops.center_to_corner(a),
            ops.clip_boxes(a),
        )

    assert_same(
        calls, boxes(200), boxes(50, seed=1), 40 * torch.randn(200, 4, generator=torch.Generator().manual_seed(3))
    )


def test_ciou_up_to_the_last_bits_of_the_arc_tangent():
    for wanted, found in run_both(lambda a, b: (ops.iou_pairs(a, b, "ciou"),), boxes(100), boxes(50, seed=1)):
        torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-6)


def test_assignment():
    anchors = ops.multibox_prior(6, 6, [0.2, 0.4], [1, 2, 0.5])
    points, strides = (anchors[0, :, :2] + anchors[0, :, 2:]) / 2, torch.full((anchors.shape[1],), 1 / 6)
    labels = torch.randint(0, 3, (2, 4), generator=torch.Generator().manual_seed(4))
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])

    def calls(gt, labels, valid, scores, predicted):
        rows = torch.cat((labels[..., None].to(gt.dtype), gt), dim=-1)
        return (
            ops.assign_anchors(anchors[0], gt, valid),
            *ops.multibox_target(anchors, rows),
            *ops.assignment_target(ops.assign_anchors(anchors[0], gt, valid), labels, gt, anchors[0]),
            ops.assign_threshold(anchors[0], gt, valid, allow_low_quality=True),
            ops.assign_atss(anchors[0], [anchors.shape[1]], gt, valid),
            *ops.assign_task_aligned(scores, predicted, points, labels, gt, valid),
            *ops.assign_simota(scores, predicted, points, strides, labels, gt, valid),
        )

    scores = torch.rand(2, anchors.shape[1], 3, generator=torch.Generator().manual_seed(5))
    assert_same(calls, boxes(2, 4), labels, valid, scores, boxes(2, anchors.shape[1], seed=6))


def test_what_onnx_cannot_say_is_refused():
    with pytest.raises(Exception, match="decompose") as caught:
        list(run_both(lambda b, s: ops.soft_nms(b, s), boxes(1, 20), hard_scores(1, 20)))
    assert "soft_nms: ONNX has no operator for it" in str(caught.value.__cause__)


def test_compiles_no_more_often_while_the_table_is_there():
    table = translation_table()
    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ops.assign_anchors, fullgraph=True, dynamic=True, backend=graphs)
    counts = []
    for num_gt in (6, 8, 17, 40):
        compiled(torch.rand(70, 4), torch.rand(3, num_gt, 4), torch.ones(3, num_gt, dtype=torch.bool))
        counts.append(graphs.frame_count)
    assert counts[-1] == counts[0]
    del table


def test_an_export_leaves_nothing_behind(monkeypatch):
    monkeypatch.setenv("CI", "1")  # Inductor is then strict about what decomposes
    op = torch.ops.tinyssd_ops.box_iou.default
    gc.collect()  # pytest's record of the refused export above may hold its table
    first, second = translation_table(), translation_table()
    del first
    assert torch._decomp.get_decompositions([op])
    del second
    assert not torch._decomp.get_decompositions([op])
    assert not torch._decomp.get_decompositions([op], type="meta")
    assert_same(lambda a, b: (ops.box_iou(a, b),), boxes(3), boxes(5))
    torch._dynamo.reset()
    assert torch.equal(torch.compile(ops.box_iou)(boxes(3), boxes(5)), ops.box_iou(boxes(3), boxes(5)))
