"""Lets code that is written for torchvision run on the kernels of this package, without a change to it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_ORIGINAL = "__tinyssd_ops_original__"


class Patch:
    """torchvision's functions replaced, from now until :meth:`undo`.

    Whoever holds one of them under a global name of a loaded module, torchvision's own modules included, has ours; and
    the dispatcher's ``torchvision::nms`` is ours on the CPU and on CUDA, which is what scripted, exported and loaded
    models call. What holds a function otherwise (an attribute of an object, a closure) keeps torchvision's, which ends
    in our ``nms`` all the same. ``torch.jit.script`` compiles torchvision's source, as ever.

    For the whole process, all threads.
    """

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        import torchvision  # type: ignore[import-untyped,import-not-found,unused-ignore]

        if not hasattr(torch.ops.torchvision, "nms"):
            raise RuntimeError("torchvision's library is not loaded: its operators cannot be replaced")
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []
        originals = {name: getattr(torchvision.ops, name) for name in functions}
        by_identity = {id(old): _stand_in(functions[name], old) for name, old in originals.items()}
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", None)
            if not isinstance(names, dict):
                continue
            for name, value in list(names.items()):
                if id(value) in by_identity and value is not by_identity[id(value)]:
                    self._replaced.append((names, name, value))
                    names[name] = by_identity[id(value)]
        self._library = torch.library.Library("torchvision", "IMPL")
        for key in ("CPU", "CUDA"):
            self._library.impl("nms", _dispatched(functions["nms"]), key, allow_override=True)

    def undo(self) -> None:
        """Puts everything back."""
        for names, name, value in self._replaced:
            names[name] = value
        self._replaced.clear()
        self._library._destroy()


@contextlib.contextmanager
def patched(functions: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """A :class:`Patch` for the time of a ``with`` block."""
    patch = Patch(functions)
    try:
        yield
    finally:
        patch.undo()


def _stand_in(ours: Callable[..., Any], old: Callable[..., Any]) -> Callable[..., Any]:
    original = getattr(old, _ORIGINAL, old)

    @functools.wraps(ours)
    def function(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    setattr(function, _ORIGINAL, original)
    function.__prepare_scriptable__ = lambda: original  # type: ignore[attr-defined]
    return function


def _dispatched(nms: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def kernel(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        return nms(dets, scores, iou_threshold)

    return kernel
