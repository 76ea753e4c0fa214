"""Charts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinyssd.files import write_atomically


def save_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draws the loss and the average precision over the epochs.

    Args:
        history: Rows of ``metrics.jsonl``.
        path: A PNG file.
    """
    epochs = [row["epoch"] for row in history]
    # No pyplot: its figures are global and want a display.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, precision = figure.subplots(1, 2)
    loss.plot(epochs, [row["loss"] for row in history], color="tab:blue", marker="o", markersize=4)
    loss.set(title="Training", ylabel="loss, mean per picture")
    loss.set_ylim(bottom=0)
    loss.grid(visible=True, alpha=0.3)
    for name, label, color in (
        ("ap50", "AP50 (IoU 0.50)", "tab:green"),
        ("ap", "AP (IoU 0.50 to 0.95)", "tab:orange"),
    ):
        values = [float("nan") if row[name] is None else row[name] for row in history]
        precision.plot(epochs, values, label=f"{label}: {values[-1]:.3f}", color=color, marker="o", markersize=4)
    precision.set(title="Validation", ylabel="average precision", ylim=(-0.03, 1.03))
    precision.legend(loc="lower right")
    precision.grid(visible=True, alpha=0.3)
    for axes in (loss, precision):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
