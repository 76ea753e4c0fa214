"""A signal ends a long op early, by what its handler raises; a handler that raises nothing lets the op go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import conftest
import pytest
import torch
from torch import Tensor

import tinyssd_ops as ops
from tinyssd_ops import reference

if conftest.SIMT or "tinyssd_ops._C" not in sys.modules or not hasattr(signal, "setitimer"):
    pytest.skip("there are no CPU kernels here, or no timers", allow_module_level=True)

SOON = 0.1  # seconds until the signal
LATE = 3.0  # after it; a look is due every tenth of a second, and the machine may be busy


class StopError(Exception):
    """What a handler raises."""


def stop(*_: Any) -> None:
    raise StopError


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Sets a handler, and a timer that calls it."""
    before = signal.getsignal(signal.SIGALRM)

    def start(handler: Callable[..., Any]) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, SOON)

    yield start
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def crowd(images: int, n: int) -> tuple[Tensor, Tensor]:
    """Boxes that all overlap, and their scores."""
    corners = torch.rand(images, n, 2)
    return torch.cat((corners, corners + 10), dim=2), torch.rand(images, n)


def scattered(n: int) -> Tensor:
    corners = 1000 * torch.rand(n, 2)
    return torch.cat((corners, corners + 5 * torch.rand(n, 2)), dim=1)


def soft_nms() -> Callable[[], object]:
    boxes, scores = crowd(3, 150_000)
    return lambda: ops.soft_nms(boxes, scores, score_threshold=None)


def soft_nms_of_torch_ops() -> Callable[[], object]:
    boxes, scores = crowd(1, 150_000)
    return lambda: torch.ops.tinyssd_ops.soft_nms(boxes, scores, score_threshold=None)


def soft_nms_compiled() -> Callable[[], object]:
    boxes, scores = crowd(1, 150_000)
    compiled = torch.compile(ops.soft_nms, backend="aot_eager", fullgraph=True, dynamic=True)
    compiled(*crowd(1, 9), score_threshold=-0.5)
    return lambda: compiled(boxes, scores, score_threshold=-0.5)


def soft_nms_of_one_image() -> Callable[[], object]:
    """With several threads the one that calls has nothing to do, or another."""
    boxes, scores = crowd(3, 150_000)
    scores[[0, 2], 10:] = -1
    return lambda: ops.soft_nms(boxes, scores, iou_threshold=1.0, score_threshold=0.0)


def assign_anchors() -> Callable[[], object]:
    anchors, boxes = scattered(500_000), scattered(40_000)
    return lambda: ops.assign_anchors(anchors, boxes)


CALLS = [soft_nms, soft_nms_of_torch_ops, soft_nms_compiled, soft_nms_of_one_image, assign_anchors]


@pytest.mark.parametrize("make", CALLS)
@pytest.mark.parametrize(("handler", "error"), [(stop, StopError), (signal.default_int_handler, KeyboardInterrupt)])
def test_a_handler_ends_the_op(
    make: Callable[[], Callable[[], object]],
    handler: Callable[..., Any],
    error: type[BaseException],
    threads: int,
    alarm: Callable[[Callable[..., Any]], None],
) -> None:
    call = make()
    alarm(handler)
    start = time.monotonic()
    with pytest.raises(error):
        call()
    assert time.monotonic() - start < SOON + LATE
    boxes, scores = crowd(2, 50)  # The next call knows nothing of it.
    for ours, right in zip(ops.soft_nms(boxes, scores), reference.soft_nms(boxes, scores), strict=True):
        assert torch.equal(ours, right)


def test_a_handler_that_raises_nothing_lets_the_op_go_on(
    threads: int, alarm: Callable[[Callable[..., Any]], None]
) -> None:
    boxes, scores = crowd(1, 40_000)
    calls: list[float] = []
    alarm(lambda *_: calls.append(time.monotonic()))
    _, _, counts = ops.soft_nms(boxes, scores, score_threshold=None)
    end = time.monotonic()
    assert counts.tolist() == [40_000]
    assert len(calls) == 1
    assert calls[0] < end


def test_an_op_of_another_thread_goes_on(alarm: Callable[[Callable[..., Any]], None]) -> None:
    boxes, scores = crowd(1, 40_000)
    counts: list[int] = []
    done = threading.Event()

    def work() -> None:
        counts.append(int(ops.soft_nms(boxes, scores, score_threshold=None)[2]))
        done.set()

    threading.Thread(target=work).start()
    alarm(stop)
    with pytest.raises(StopError):
        done.wait()
    assert done.wait(60)
    assert counts == [40_000]


def test_ctrl_c() -> None:
    program = (
        "import torch, tinyssd_ops as ops\n"
        "boxes = torch.tensor([0.0, 0, 1, 1]).expand(1, 150_000, 4) + torch.rand(1, 150_000, 1) / 2\n"
        "scores = torch.rand(1, 150_000)\n"
        "print('ready', flush=True)\n"
        "ops.soft_nms(boxes, scores, score_threshold=None)\n"
    )
    command = [
        sys.executable,
        "-c",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(SOON)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - start < LATE
    assert process.returncode == -signal.SIGINT
    assert errors.endswith(b"KeyboardInterrupt\n")
