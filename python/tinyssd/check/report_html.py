"""What a check found as a page of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tinyssd.check.anchors import AnchorFit, band_name
from tinyssd.check.drawn import drawn_picture
from tinyssd.check.examples import choose_examples
from tinyssd.check.pictures import find_twins
from tinyssd.check.report import SEVERITIES, Group, Report
from tinyssd.check.report_text import config_json
from tinyssd.data.labels import Problem
from tinyssd.drawing.page import bar, labelled_bar, page, swatch, table, text
from tinyssd.text import plural

# Of one kind; --json has all.
_LISTED = 500
_PAIRS = 6


def to_html(report: Report) -> str:
    """The page. All text from the data set is escaped, and free of what is not printable."""
    data = report.snapshot.data
    sections = (
        _header(report),
        *_findings(report),
        *_section("Splits", _split_table(report)),
        *_section("Classes", _class_table(report)),
        *_anchors(report.fit),
        *_examples(report),
        *_pairs(report),
    )
    return page(f"{data.root.name}: {plural(report.count('error'), 'error')}", sections)


def _header(report: Report) -> str:
    data = report.snapshot.data
    badges = ""
    for severity in SEVERITIES:
        count = report.count(severity)
        label = plural(count, severity)
        badges += f'<span class="badge {severity if count else "none"}">{label}</span>'
    notes = "".join(f"<p>{text(note)}</p>" for note in data.notes)
    pictures = sum(row.pictures for row in report.splits)
    objects = sum(row.objects for row in report.splits)
    classes = plural(len(data.class_names), "class", "classes")
    size = f"{data.format}, {plural(pictures, 'picture')}, {plural(objects, 'object')}, {classes}"
    return f'<header><h1>{text(data.root)}</h1><p class="quiet">{text(size)}</p>{notes}<p>{badges}</p></header>'


def _findings(report: Report) -> Iterator[str]:
    yield "<h2>Findings</h2>"
    if not report.groups:
        yield "<p>None.</p>"
    for group in report.groups:
        yield _group(group, report.snapshot.data.root)


def _group(group: Group, root: Path) -> str:
    shown = group.findings[:_LISTED]
    items = []
    for finding in shown:
        place = _place(finding, root)
        items.append(f"<li>{f'<code>{text(place)}</code>: ' if place else ''}{text(finding.message)}</li>")
    rest = group.count - sum(finding.count for finding in shown)
    if rest > 0:
        items.append(f"<li>... and {rest} more; tinyssd check --json lists them</li>")
    unfold = "" if group.severity == "note" else " open"
    head = f"{text(group.kind)} <span>({group.severity}, {group.count})</span>"
    return f'<details class="{group.severity}"{unfold}><summary>{head}</summary><ul>{"".join(items)}</ul></details>'


def _place(finding: Problem, root: Path) -> str:
    """Where, from the folder of the data set on; the page names that folder once."""
    file = finding.file
    if file is None:
        return ""
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    return name if finding.line is None else f"{name}, line {finding.line}"


def _section(title: str, content: str) -> Iterator[str]:
    yield f"<h2>{title}</h2>"
    yield content


def _split_table(report: Report) -> str:
    rows = [
        (text(row.name), str(row.pictures), str(row.empty), str(row.objects), str(row.ignored)) for row in report.splits
    ]
    return table(("split", "pictures", "without objects", "objects", "ignored"), rows)


def _class_table(report: Report) -> str:
    splits = [row.name for row in report.splits]
    largest = max((sum(row.objects.values()) for row in report.classes), default=0) or 1
    rows = []
    for i, row in enumerate(report.classes):
        total = sum(row.objects.values())
        met = "-" if row.met is None else f"{row.met:.0%}"
        rows.append((f"{swatch(i)}{text(row.name)}", *(str(row.objects[s]) for s in splits), met, bar(total / largest)))
    return table(("class", *map(text, splits), "an anchor meets", "objects in all"), rows)


def _anchors(fit: AnchorFit | None) -> Iterator[str]:
    if fit is None:
        return
    yield "<h2>Box sizes and anchors</h2>"
    height, width = fit.image_size
    yield (
        f"<p>The network starts from anchors. One of its {width}x{height} input meets (IoU at least 0.5) "
        f"<b>{fit.now.met:.0%}</b> of the {fit.objects} objects to train on.</p>"
    )
    rows = [(band_name(b), str(b.objects), labelled_bar(b.met / b.objects)) for b in fit.bands if b.objects]
    yield table(("size, of the picture's side", "objects", "an anchor meets"), rows)
    if len(fit.proposals) > 1:
        yield table(("anchors", "meet"), [(text(p.title), labelled_bar(p.met)) for p in fit.proposals])
    if fit.best.config:
        yield "<p>For <code>tinyssd train --config FILE</code>, a file with this:</p>"
        yield f"<pre>{text(config_json(fit))}</pre>"


def _examples(report: Report) -> Iterator[str]:
    pictures = choose_examples(report.snapshot)
    if pictures:
        yield "<h2>Labelled examples</h2>"
        yield f'<div class="grid">{"".join(drawn_picture(report.snapshot, p, p.path.name) for p in pictures)}</div>'


def _pairs(report: Report) -> Iterator[str]:
    twins = sorted(find_twins(report.snapshot), key=lambda t: (not t.exact, -t.boxes))[:_PAIRS]
    if twins:
        yield "<h2>Pictures alike in two splits</h2>"
    for pair in twins:
        halves = zip((pair.first, pair.second), pair.splits, strict=True)
        drawn = (drawn_picture(report.snapshot, picture, f"{split}: {picture.path.name}") for picture, split in halves)
        yield f'<div class="pair">{"".join(drawn)}</div>'
