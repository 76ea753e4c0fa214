"""Lets code that is written for torchvision run on the kernels of this package, without a change to it."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_ORIGINAL = "__tinyssd_ops_original__"
_ROTATED = ("cxcywhr", "xywhr", "xyxyxyxy")
_LOCK = threading.Lock()
_IN_FORCE: list[Patch] = []


class Patch:
    """torchvision's functions replaced, from now until :meth:`undo`.

    Whoever holds one of them under a global name of a loaded module, torchvision's own modules included, has ours; and
    the dispatcher's ``torchvision::nms`` is ours on the CPU and on CUDA, which is what scripted, exported and loaded
    models call. What holds a function otherwise (an attribute of an object, a closure) keeps torchvision's, which ends
    in our ``nms`` all the same. ``torch.jit.script`` compiles torchvision's source, as ever. Rotated formats and
    quantized boxes go to torchvision.

    For the whole process, all threads. Of several at once, in whatever order they end, the last one puts all back.
    """

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        import torchvision  # type: ignore[import-untyped,import-not-found,unused-ignore]

        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("torchvision's library is not loaded: its operators cannot be replaced")
        self._stand_ins = {}
        for name, ours in functions.items():
            held = getattr(torchvision.ops, name)
            original = getattr(held, _ORIGINAL, held)
            self._stand_ins[original] = _stand_in(ours, original)
        with _LOCK:
            self._library = torch.library.Library("torchvision", "IMPL")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
                for key in ("CPU", "CUDA"):
                    self._library.impl("nms", _dispatched(functions["nms"]), key, allow_override=True)
            _rename(self._stand_ins)
            _IN_FORCE.append(self)

    def undo(self) -> None:
        """Puts everything back, if no other patch is in force."""
        with _LOCK:
            if self not in _IN_FORCE:
                return
            _IN_FORCE.remove(self)
            self._library._destroy()
            if not _IN_FORCE:
                _rename({ours: original for original, ours in self._stand_ins.items()})


@contextlib.contextmanager
def patched(functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """A :class:`Patch` for the time of a ``with`` block."""
    patch = Patch(functions)
    try:
        yield
    finally:
        patch.undo()


def _rename(replacements: dict[Callable[..., Any], Callable[..., Any]]) -> None:
    """Replaces functions wherever a loaded module has one under a global name."""
    by_identity = {id(old): new for old, new in replacements.items()}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(names, dict):
            for name, value in list(names.items()):
                if id(value) in by_identity:
                    names[name] = by_identity[id(value)]


@functools.cache
def _stand_in(ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Ours under the name of torchvision's, by which it is pickled."""

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        left = any(_is_torchvisions_alone(value) for value in (*args, *kwargs.values()))
        return (original if left else ours)(*args, **kwargs)

    setattr(function, _ORIGINAL, original)
    function.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]
    return function


def _is_torchvisions_alone(value: Any) -> bool:
    return value.is_quantized if isinstance(value, Tensor) else isinstance(value, str) and value in _ROTATED


def _dispatched(nms: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def kernel(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return nms(dets, scores, iou_threshold)

    return kernel
