"""Keeps what training runs measured, and makes the table of docs/detector.md of all that is kept.

``python -m benchmarks.detector RUN ...`` adds finished runs, one JSON file each, to benchmarks/results/detector;
without a run it only makes the table. A run's figures are those of the epoch with the best AP.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import with_table
from benchmarks.results import cpu_name

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "detector"
PAGE = ROOT / "docs" / "detector.md"


def kept(run: Path, note: str) -> dict[str, Any]:
    """What a run folder holds, without the paths of the machine it was trained on."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    for section, name in (("data", "name"), ("train", "init")):
        config[section][name] = Path(config[section].get(name, "")).name
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__}
    return {"note": note, "machine": machine, "config": config, "epochs": rows}


def table(runs: list[dict[str, Any]]) -> str:
    """A row for each data set and note, the mean over the seeds with the least and the largest."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["config"]["data"]["name"], run["note"]].append(run)
    lines = [
        "| data | recipe | input | pictures seen | seeds | AP50 | AP | AP50 of each class |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, note), members in sorted(groups.items()):
        best = [max(run["epochs"], key=lambda row: (row["ap"] or 0, row["epoch"])) for run in members]
        height, width = members[0]["config"]["model"]["image_size"]
        seen = [round(sum(row["seconds"] * row["images_per_second"] for row in run["epochs"]), -2) for run in members]
        classes = zip(members[0]["config"]["class_names"], *(row["ap50_per_class"] for row in best), strict=True)
        by_class = ", ".join(f"{name} {_mean(values)}" for name, *values in classes)
        cells = (data, note, f"{width}x{height}", f"{statistics.mean(seen):,.0f}", str(len(members)))
        figures = (_mean([row["ap50"] for row in best]), _mean([row["ap"] for row in best]), by_class)
        lines.append(f"| {' | '.join((*cells, *figures))} |")
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    spread = f" ({min(there):.3f} to {max(there):.3f})" if len(there) > 1 else ""
    return f"{statistics.mean(there):.3f}{spread}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--note", default="default", help="what the runs have in common, for the table")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    for run in options.runs:
        contents = kept(run, options.note)
        seed = contents["config"]["train"]["seed"]
        label = "-".join((contents["config"]["data"]["name"], *re.findall(r"\w+", options.note), f"seed{seed}"))
        (KEPT / f"{label}.json").write_text(json.dumps(contents) + "\n", encoding="utf-8")
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(runs), "runs"), encoding="utf-8")


if __name__ == "__main__":
    main()
