"""Curves as pieces of SVG that take the colours of the page around them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Stands in Matplotlib's output for the colour of the page's text, which is dark or light.
_INK = "#010203"
# Seen on a light and on a dark ground.
COLORS = ("#3b82c4", "#d97706", "#2f9e44", "#c2418c", "#7c5cd6", "#0e8f8f")


@dataclass(frozen=True)
class Line:
    """A named line; its y may have gaps (NaN)."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray


def chart(lines: Sequence[Line], x_label: str, y_label: str, mark: float | None = None, share: bool = False) -> str:
    """Lines over one axis, as ``<svg>``; names and labels are this program's own, not those of classes.

    Args:
        lines: At least one.
        x_label: Under the chart.
        y_label: Beside it.
        mark: Where a vertical line is to stand.
        share: Whether y runs from 0 to 1.
    """
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": y_label, "font.size": 9, "text.color": _INK}
    style |= {f"{axis}.color": _INK for axis in ("xtick", "ytick")}
    with rc_context({**style, "axes.edgecolor": _INK, "axes.labelcolor": _INK}):
        figure = Figure(figsize=(5, 3), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for line, color in zip(lines, COLORS * (1 + len(lines) // len(COLORS)), strict=False):
            point = "o" if len(line.x) < 30 else ""
            axes.plot(line.x, line.y, label=line.name, color=color, marker=point, markersize=3, linewidth=1.6)
        if mark is not None:
            axes.axvline(mark, color=_INK, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.set(xlabel=x_label, ylabel=y_label)
        if share:
            axes.set_ylim(-0.02, 1.02)
        else:
            axes.set_ylim(bottom=0)
        if x_label == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, color=_INK, alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False)
        data = io.StringIO()
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = data.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f'<div class="chart">{svg.replace(_INK, "currentColor")}</div>'
