"""A report as lines for a terminal, and as JSON."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from tinyssd.check.anchors import AnchorFit, band_name
from tinyssd.check.report import SEVERITIES, Group, Report
from tinyssd.data.labels import Problem
from tinyssd.files import json_text
from tinyssd.text import plural, printable

# Of one kind; a thousand lines of the first kind would push the second off the screen.
LISTED = 20
_CLASSES = 100
_LONG_NAME = 40


def to_text(report: Report, listed: int | None = LISTED) -> str:
    """The report as text without anything that a terminal would obey.

    Args:
        report: The report.
        listed: How many findings of a kind are listed at most; None lists all.
    """
    data = report.snapshot.data
    lines = [f"{data.root}: {data.format}, {plural(len(data.class_names), 'class', 'classes')}"]
    lines += [f"  {note}" for note in data.notes]
    lines += ["", *_split_table(report), "", *_class_table(report, listed)]
    if report.fit is not None:
        lines += ["", *_anchor_tables(report.fit)]
    for group in report.groups:
        lines += ["", *_group_lines(group, listed)]
    lines += ["", summary(report)]
    return "\n".join(printable(line) for line in lines)


def summary(report: Report) -> str:
    """How much was found, in one line."""
    counts = [plural(report.count(severity), severity) for severity in SEVERITIES]
    return f"{counts[0]}, {counts[1]}, {counts[2]}"


def to_json(report: Report) -> str:
    """The report as JSON: all findings, with file and line, and the tables."""
    data, fit = report.snapshot.data, report.fit
    values = {
        "root": str(data.root),
        "format": data.format,
        "notes": data.notes,
        "counts": {severity: report.count(severity) for severity in SEVERITIES},
        "findings": [_finding_values(finding) for group in report.groups for finding in group.findings],
        "splits": [vars(row) for row in report.splits],
        "classes": [vars(row) for row in report.classes],
        "anchors": None if fit is None else _fit_values(fit),
    }
    return json_text(values, indent=2)


def config_json(fit: AnchorFit) -> str:
    """The best proposal as a configuration file on one line; empty where nothing is to change."""
    return json_text(fit.best.config) if fit.best.config else ""


def _finding_values(finding: Problem) -> dict[str, Any]:
    file = None if finding.file is None else str(finding.file)
    return {**vars(finding), "file": file}


def _fit_values(fit: AnchorFit) -> dict[str, Any]:
    return {
        "objects": fit.objects,
        "image_size": fit.image_size,
        "sizes": [{"sizes": band_name(band), "objects": band.objects, "met": band.met} for band in fit.bands],
        "proposals": [vars(proposal) for proposal in fit.proposals],
        "best": fit.best.title,
    }


def _group_lines(group: Group, listed: int | None) -> Iterator[str]:
    shown = group.findings[:listed]
    yield f"{group.severity}: {group.kind} ({group.count})" if group.count > 1 else f"{group.severity}: {group.kind}"
    for finding in shown:
        yield f"  {finding}"
    rest = group.count - sum(finding.count for finding in shown)
    if rest > 0:
        yield f"  ... and {rest} more; --all lists them"


def _split_table(report: Report) -> list[str]:
    rows = [("split", "pictures", "without objects", "objects", "ignored")]
    rows += [(row.name, str(row.pictures), str(row.empty), str(row.objects), str(row.ignored)) for row in report.splits]
    return _table(rows)


def _class_table(report: Report, listed: int | None) -> list[str]:
    splits = [row.name for row in report.splits]
    rows = [("class", *splits, "an anchor meets")]
    for row in report.classes[: None if listed is None else _CLASSES]:
        met = "-" if row.met is None else f"{row.met:.0%}"
        rows.append((_short(row.name), *(str(row.objects[split]) for split in splits), met))
    rest = len(report.classes) - len(rows) + 1
    return _table(rows) + ([f"  ... and {rest} more; --all lists them"] if rest else [])


def _anchor_tables(fit: AnchorFit) -> list[str]:
    rows = [("size, of the picture's side", "objects", "an anchor meets")]
    rows += [(band_name(b), str(b.objects), f"{b.met / b.objects:.0%}") for b in fit.bands if b.objects]
    lines = _table(rows)
    if len(fit.proposals) > 1:
        lines += ["", *_table([("anchors", "meet"), *((p.title, f"{p.met:.0%}") for p in fit.proposals)])]
    if fit.best.config:
        lines += ["", "for 'tinyssd train --config FILE', a file with this:", f"  {config_json(fit)}"]
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they must be; all but the first to the right."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + gaps[0], *(gap + cell for gap, cell in zip(gaps[1:], row[1:], strict=True))]
        lines.append("  " + "  ".join(cells))
    return lines


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: letters of East Asia take two, marks above others none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
