"""``python -m benchmarks.report``: tables and plots of the committed results, and the README's table.

Every ``benchmarks/results/DEVICE/NAME.json`` gets a ``NAME.md`` and a ``NAME-OP.png`` for each op beside it. With
``--check`` nothing is written: the exit status is 1 if a table is not what the JSON gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.results import PeerResult, Row, Run, load, milliseconds, times

ROOT = Path(__file__).resolve().parent.parent

# The README's rows, where a result has them.
_HEADLINES = (
    ("nms", "random", "N=20,000"),
    ("nms", "random", "N=100,000"),
    ("nms", "clustered", "N=20,000"),
    ("batched_nms", "random", "N=100,000 C=80"),
    ("box_iou", "random", "5,444 x 5,444"),
    ("multibox_target", "random", "B=32 A=5444 G=32"),
    ("multibox_detection", "random", "B=4 A=5444 C=2"),
    ("detect", "detector", "B=32 A=5444 C=2"),
    ("train_step", "random", "B=32"),
)
_AXES = {
    "assign_anchors": "images x anchors x boxes",
    "multibox_target": "images x anchors x boxes",
    "assign_threshold": "images x anchors x boxes",
    "assign_atss": "images x anchors x boxes",
    "assign_task_aligned": "images x anchors x boxes",
    "assign_simota": "images x anchors x boxes",
    "assignment_target": "images x anchors x boxes",
    "nms_padded": "images x boxes",
    "soft_nms": "images x boxes",
    "multibox_detection": "images x anchors",
    "detect": "images x anchors",
    "box_iou": "boxes on each side",
    "train_step": "images",
}
# Colours that also colour-blind readers tell apart (Okabe and Ito), and a marker each for those who print in grey.
_STYLES = {
    "ours": ("#000000", "o"),
    "reference": ("#999999", "s"),
    "torchvision": ("#D55E00", "^"),
    "torch loop": ("#0072B2", "v"),
    "powerboxes": ("#009E73", "D"),
    "powerboxes rtree": ("#56B4E9", "P"),
    "lsnms": ("#CC79A7", "X"),
    "fastbbox": ("#E69F00", "*"),
    "floor": ("#BBBBBB", "_"),
}


def markdown(run: Run, stem: str) -> str:
    """The page of one result file; ``stem`` is the file's name without its ending."""
    parts = [f"# {run.device}, {_threads(run)}", environment(run), _LEGEND]
    for op in _ops(run):
        rows = [row for row in run.rows if row.op == op]
        parts.append(f"## {op}")
        if plottable(rows):
            parts.append(f"![{op}: time over size]({stem}-{op}.png)")
        parts.append(_op_table(rows))
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Medians; ours with the quartiles in brackets. In brackets after a peer: how many times as long it takes. A dash: "
    "not run, for the reason in the notes. `time / floor` is the multiple of the least that the work can cost on this "
    "machine, measured beside it; assignment can stay below 1, because it skips pairs that the floor counts."
)


def environment(run: Run) -> str:
    """Where, when and how the run was made, in a sentence or two."""
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    build = ", ".join(f"{name} {value}" for name, value in run.build.items())
    return f"Measured on {run.date} with `{run.command}`: {versions}; {run.backend} backend ({build})."


def readme_table(runs: Sequence[Run]) -> str:
    """The README's text between the markers: the headline rows of each run."""
    parts = []
    for run in runs:
        rows = {row.key: row for row in run.rows}
        if not rows.keys() & set(_HEADLINES):
            continue
        lines = [
            "| op | input | ours | torchvision | fastest other | time / floor |",
            "|---|---|---|---|---|---|",
        ]
        for key in _HEADLINES:
            row = rows.get(key)
            if row is None or row.ours is None:
                continue
            torchvision, others = row.peer("torchvision"), [p for p in row.peers if _is_other(p)]
            other = min(others, key=lambda p: p.timing.median if p.timing else 0.0, default=None)
            cells = [
                f"`{row.op}`",
                f"{row.inputs}, {row.label}",
                milliseconds(row.ours.median),
                _peer_cell(row, torchvision),
                f"{_peer_cell(row, other)} {other.name}" if other else "-",
                f"{row.over_floor:.2f}" if row.over_floor is not None else "-",
            ]
            lines.append(_table_line(cells))
        parts.append(f"{run.device}, {_threads(run)}. {environment(run)}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def with_table(page: str, table: str, name: str = "benchmarks") -> str:
    """The README, or another page, with what stands between the markers of that name replaced.

    Raises:
        ValueError: If a marker is missing.
    """
    first, last = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page: expected the lines {first} and {last}")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


def result_files(root: Path) -> list[Path]:
    """The committed results of the suite; those of trained detectors are of benchmarks.detector."""
    return sorted((root / "benchmarks" / "results").glob("*cores/*.json"))


def texts(root: Path) -> dict[Path, str]:
    """Every generated text: the pages, and the README if it has the markers."""
    runs = {path: load(path) for path in result_files(root)}
    found = {path.with_suffix(".md"): markdown(run, path.stem) for path, run in runs.items()}
    readme = root / "README.md"
    if runs and readme.is_file():
        found[readme] = with_table(readme.read_text(encoding="utf-8"), readme_table(list(runs.values())))
    return found


def plottable(rows: Iterable[Row]) -> bool:
    """Whether there is growth to show: two sizes of one kind of inputs."""
    kinds = [row.inputs for row in rows if row.ours is not None]
    return any(kinds.count(kind) > 1 for kind in kinds)


def plot(run: Run, op: str, path: Path) -> None:
    """A log-log plot of one op: a panel for each kind of inputs, a line for each side, a band between quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = [row for row in run.rows if row.op == op and row.ours is not None]
    kinds = [
        kind for kind in dict.fromkeys(row.inputs for row in rows) if plottable(r for r in rows if r.inputs == kind)
    ]
    columns = min(2, len(kinds))
    lines = -(-len(kinds) // columns)
    width, height = (5.2 * columns + 1.8, 3.8 * lines + 0.6)
    figure, axes = plt.subplots(lines, columns, figsize=(width, height), sharex=True, sharey=True, squeeze=False)
    handles = {}
    for axis, kind in zip(axes.flat, kinds, strict=False):
        for name, points in _series([row for row in rows if row.inputs == kind]).items():
            color, marker = _STYLES.get(name, ("#332288", "."))
            x = [size for size, _ in points]
            style = {"color": color, "marker": marker, "linestyle": ":" if name == "floor" else "-"}
            (handles[name],) = axis.plot(
                x, [t.median * 1e3 for _, t in points], **style, linewidth=2.2 if name == "ours" else 1.4, markersize=5
            )
            axis.fill_between(
                x, [t.q1 * 1e3 for _, t in points], [t.q3 * 1e3 for _, t in points], color=color, alpha=0.15
            )
        axis.set(xscale="log", yscale="log", title=f"{kind} inputs")
        axis.grid(alpha=0.3)
        axis.label_outer()
        axis.tick_params(labelbottom=True)
        axis.set_xlabel(_AXES.get(op, "boxes"))
        axis.set_ylabel("milliseconds a call")
        axis.yaxis.set_major_locator(LogLocator(numticks=12))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        sizes = sorted({row.size for row in rows if row.inputs == kind})
        if len(sizes) <= 3:
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in axes.flat[len(kinds) :]:
        axis.set_visible(False)
    figure.suptitle(f"{op} on {run.device}, {_threads(run)}")
    figure.legend(list(handles.values()), list(handles), loc="center right", frameon=False)
    figure.tight_layout(rect=(0, 0, 1 - 1.6 / width, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str]) -> int:
    """Writes or checks everything; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    options = parser.parse_args(argv)
    wanted = texts(ROOT)
    if options.check:
        stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what the committed results give: run python -m benchmarks.report")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    for path in result_files(ROOT):
        run = load(path)
        for op in _ops(run):
            if plottable(row for row in run.rows if row.op == op):
                picture = path.with_name(f"{path.stem}-{op}.png")
                plot(run, op, picture)
                print(picture.relative_to(ROOT))
    return 0


def _op_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(peer.name for row in rows for peer in row.peers))
    lines = [
        _table_line(["inputs", "size", "ours", *names, "floor", "time / floor"]),
        _table_line(["---"] * (len(names) + 5)),
    ]
    notes: dict[str, None] = {}
    for row in rows:
        where = f"{row.inputs}, {row.label}"
        if row.ours is None:
            notes[f"{where}: {row.error or row.note}"] = None
            continue
        ours = f"{milliseconds(row.ours.median)} ({milliseconds(row.ours.q1)} to {milliseconds(row.ours.q3)})"
        found = [row.peer(name) for name in names]
        floor = [milliseconds(row.floor.median), f"{row.over_floor:.2f}"] if row.floor else ["-", "-"]
        lines.append(_table_line([row.inputs, row.label, ours, *(_peer_cell(row, p) for p in found), *floor]))
        for peer in found:
            if peer is not None and peer.note:
                # One line for a reason that many sizes share.
                reason = f"{peer.name}, {row.inputs}: {peer.note}" if peer.timing is None else ""
                notes[reason or f"{peer.name}, {where}: {peer.note}"] = None
        if row.floor_name:
            notes[f"floor: {row.floor_name}"] = None
    text = "\n".join(lines)
    return text + "\n\n" + "\n".join(f"- {note}" for note in notes) if notes else text


def _peer_cell(row: Row, peer: PeerResult | None) -> str:
    ratio = row.ratio(peer.name) if peer else None
    if peer is None or peer.timing is None or ratio is None:
        return "-"
    return f"{milliseconds(peer.timing.median)} ({times(ratio)}{'' if peer.same_job else ', similar job'})"


def _is_other(peer: PeerResult) -> bool:
    """A timed peer that is neither torchvision nor our own reference and does the same job."""
    return peer.timing is not None and peer.same_job and peer.name not in ("torchvision", "reference")


def _series(rows: Sequence[Row]) -> dict[str, list]:
    """For each side its points (size, timing), by size."""
    series: dict[str, list] = {}
    for row in sorted(rows, key=lambda row: row.size):
        sides = [("ours", row.ours), *((peer.name, peer.timing) for peer in row.peers), ("floor", row.floor)]
        for name, timing in sides:
            if timing is not None:
                series.setdefault(name, []).append((row.size, timing))
    return series


def _ops(run: Run) -> list[str]:
    return list(dict.fromkeys(row.op for row in run.rows))


def _threads(run: Run) -> str:
    return "1 thread" if run.threads == 1 else f"{run.threads} threads"


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
