"""A report as one page of HTML that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tinyssd.check.anchors import AnchorFit, band_name
from tinyssd.check.drawn import drawn_picture
from tinyssd.check.examples import choose_examples
from tinyssd.check.pictures import find_twins
from tinyssd.check.report import SEVERITIES, Group, Report
from tinyssd.check.report_text import config_json, plural
from tinyssd.data.labels import Problem
from tinyssd.drawing.boxes import class_color
from tinyssd.text import printable

# Of one kind; --json has all.
_LISTED = 500
_PAIRS = 6

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --error: #d03b3b; --warning: #c98500; --note: #3b82c4 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
p { margin: .3rem 0 } .quiet { opacity: .75 }
.badge { display: inline-block; padding: .1rem .7rem; margin: .5rem .4rem 0 0; border-radius: 1rem; color: #fff }
.error { background: var(--error) } .warning { background: var(--warning) } .note { background: var(--note) }
.none { background: #888 }
details { border: 1px solid var(--line); border-left: .4rem solid; border-radius: .3rem; margin: .5rem 0 }
details.error { background: none; border-left-color: var(--error) }
details.warning { background: none; border-left-color: var(--warning) }
details.note { background: none; border-left-color: var(--note) }
summary { cursor: pointer; padding: .4rem .7rem; font-weight: 600 } summary span { font-weight: 400; opacity: .75 }
details ul { margin: 0; padding: 0 1rem .6rem 1.9rem; max-height: 26rem; overflow: auto }
li { overflow-wrap: anywhere; margin: .25rem 0 } code { font-size: .88em }
table { border-collapse: collapse; margin: .6rem 0 } .scroll { overflow-x: auto }
th, td { padding: .2rem .9rem .2rem .3rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere } th { font-weight: 600 }
.bar { display: inline-block; width: 9rem; height: .7rem; background: var(--soft); margin-right: .5rem }
.share { display: inline-block; min-width: 3rem }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; border-radius: .15rem }
.bar i { display: block; height: 100%; background: var(--note) }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: .3rem }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; max-width: 44rem; margin: .6rem 0 }
figure { margin: 0 } figcaption { font-size: .82em; opacity: .75; overflow-wrap: anywhere }
svg { width: 100%; height: auto; max-height: 22rem; display: block; background: #000 }
"""


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
    title = f"{_text(data.root.name)}: {plural(report.count('error'), 'error', 'errors')}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Even a name that slipped through the escaping could load or run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _text(text: object) -> str:
    return html.escape(printable(str(text)))


def _header(report: Report) -> str:
    data = report.snapshot.data
    badges = ""
    for severity in SEVERITIES:
        count = report.count(severity)
        label = plural(count, severity, f"{severity}s")
        badges += f'<span class="badge {severity if count else "none"}">{label}</span>'
    notes = "".join(f"<p>{_text(note)}</p>" for note in data.notes)
    pictures = sum(row.pictures for row in report.splits)
    objects = sum(row.objects for row in report.splits)
    size = f"{data.format}, {pictures} pictures, {objects} objects, {plural(len(data.class_names), 'class', 'classes')}"
    return f'<header><h1>{_text(data.root)}</h1><p class="quiet">{_text(size)}</p>{notes}<p>{badges}</p></header>'


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
        items.append(f"<li>{f'<code>{_text(place)}</code>: ' if place else ''}{_text(finding.message)}</li>")
    rest = group.count - sum(finding.count for finding in shown)
    if rest > 0:
        items.append(f"<li>... and {rest} more; tinyssd check --json lists them</li>")
    unfold = "" if group.severity == "note" else " open"
    head = f"{_text(group.kind)} <span>({group.severity}, {group.count})</span>"
    return f'<details class="{group.severity}"{unfold}><summary>{head}</summary><ul>{"".join(items)}</ul></details>'


def _place(finding: Problem, root: Path) -> str:
    """Where, from the folder of the data set on; the page names that folder once."""
    file = finding.file
    if file is None:
        return ""
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    return name if finding.line is None else f"{name}, line {finding.line}"


def _section(title: str, table: str) -> Iterator[str]:
    yield f"<h2>{title}</h2>"
    yield table


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{body}</table></div>'


def _split_table(report: Report) -> str:
    rows = [
        (_text(row.name), str(row.pictures), str(row.empty), str(row.objects), str(row.ignored))
        for row in report.splits
    ]
    return _table(("split", "pictures", "without objects", "objects", "ignored"), rows)


def _class_table(report: Report) -> str:
    splits = [row.name for row in report.splits]
    largest = max((sum(row.objects.values()) for row in report.classes), default=0) or 1
    rows = []
    for i, row in enumerate(report.classes):
        total = sum(row.objects.values())
        met = "-" if row.met is None else f"{row.met:.0%}"
        rows.append(
            (f"{_swatch(i)}{_text(row.name)}", *(str(row.objects[s]) for s in splits), met, _bar(total / largest))
        )
    return _table(("class", *map(_text, splits), "an anchor meets", "objects in all"), rows)


def _swatch(class_id: int) -> str:
    return f'<span class="swatch" style="background:#{bytes(class_color(class_id)).hex()}"></span>'


def _anchors(fit: AnchorFit | None) -> Iterator[str]:
    if fit is None:
        return
    yield "<h2>Box sizes and anchors</h2>"
    height, width = fit.image_size
    yield (
        f"<p>The network starts from anchors. One of its {width}x{height} input meets (IoU at least 0.5) "
        f"<b>{fit.now.met:.0%}</b> of the {fit.objects} objects to train on.</p>"
    )
    rows = [(band_name(b), str(b.objects), _labelled_bar(b.met / b.objects)) for b in fit.bands if b.objects]
    yield _table(("size, of the picture's side", "objects", "an anchor meets"), rows)
    if len(fit.proposals) > 1:
        yield _table(("anchors", "meet"), [(_text(p.title), _labelled_bar(p.met)) for p in fit.proposals])
    if fit.best.config:
        yield "<p>For <code>tinyssd train --config FILE</code>, a file with this:</p>"
        yield f"<pre>{_text(config_json(fit))}</pre>"


def _bar(share: float) -> str:
    return f'<span class="bar"><i style="width:{share:.1%}"></i></span>'


def _labelled_bar(share: float) -> str:
    return f'{_bar(share)}<span class="share">{share:.0%}</span>'


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
