"""The result of the gate as JSON and as a page for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate.programs import Result


def write(out: Path, command: str, date: str, environment: dict[str, str], results: Sequence[Result]) -> None:
    """Both files; after every part, so that a gate that is cut off leaves what it knows."""
    contents = {"command": command, "date": date, "machine": environment}
    contents["parts"] = [dataclasses.asdict(result) for result in results]
    (out / "gate.json").write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    (out / "gate.md").write_text(page(command, date, environment, results), encoding="utf-8")


def page(command: str, date: str, environment: dict[str, str], results: Sequence[Result]) -> str:
    """The result for people."""
    parts = [f"# GPU gate: {environment['device']}", f"`{command}`, {date}"]
    parts.append("\n".join(f"- {name}: {value}" for name, value in environment.items()))
    lines = ["| part | verdict | seconds | |", "|---|---|---|---|"]
    lines += [f"| {r.name} | **{r.verdict}** | {r.seconds:.0f} | {r.summary.replace('|', '/')} |" for r in results]
    parts.append("\n".join(lines))
    for result in results:
        figures = "\n".join(f"{name}: {value}" for name, value in result.figures.items())
        for title, text in (("figures", result.lines or figures), ("the end of its output", result.tail)):
            if text:
                parts.append(f"## {result.name}: {title}\n\n```text\n{text.replace('```', '` ` `')}\n```")
    return "\n\n".join(parts) + "\n"
