"""Pieces of a page of HTML that needs nothing else: no script, no file, no network.

All text from outside goes through :func:`text`; every other argument here is HTML already, unless it says otherwise.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from tinyssd.drawing.boxes import class_color
from tinyssd.text import printable

# The longer side of a picture on a page, in pixels.
_SIDE = 400
# Names of more boxes than this would cover a picture; they show under the pointer.
_MOST_NAMES = 12

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
table { border-collapse: collapse; margin: .6rem 0 }
/* A shade at the edge beyond which a wide table goes on: it stays while what covers it scrolls away. */
.scroll { overflow-x: auto; background:
  linear-gradient(to right, Canvas 40%, #0000) left / 3rem 102% no-repeat local,
  linear-gradient(to left, Canvas 40%, #0000) right / 3rem 102% no-repeat local,
  linear-gradient(to right, #8888, #0000) left / 1rem 100% no-repeat scroll,
  linear-gradient(to left, #8888, #0000) right / 1rem 100% no-repeat scroll }
th, td { padding: .2rem .9rem .2rem .3rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere } th { font-weight: 600 }
th, td { white-space: nowrap } th:first-child, td:first-child { white-space: normal; min-width: 7rem }
.bar { display: inline-block; width: 7rem; height: .7rem; background: var(--soft); margin-right: .5rem }
.share { display: inline-block; min-width: 3rem }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; border-radius: .15rem }
.bar i { display: block; height: 100%; background: var(--note) }
pre { background: var(--soft); padding: .6rem .8rem; border-radius: .3rem }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; max-width: 44rem; margin: .6rem 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
.chart svg { background: none; max-height: none }
.cell { display: inline-block; min-width: 2.6rem; padding: 0 .5rem; border-radius: .2rem }
figure { margin: 0 } figcaption { font-size: .82em; opacity: .75; overflow-wrap: anywhere }
svg { width: 100%; height: auto; max-height: 22rem; display: block; background: var(--soft) }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """The whole page; ``title`` is plain text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Even a name that slipped through the escaping could load or run nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def text(words: object) -> str:
    """Plain text as HTML, free of what is not printable."""
    return html.escape(printable(str(words)))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its first column is that of the names."""
    first = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{body}</table></div>'


def bar(share: float) -> str:
    """A bar that is full at a share of 1."""
    return f'<span class="bar"><i style="width:{share:.1%}"></i></span>'


def labelled_bar(share: float) -> str:
    """A bar and its share in percent."""
    return f'{bar(share)}<span class="share">{share:.0%}</span>'


def swatch(class_id: int) -> str:
    """The colour of a class, counted from 0."""
    return f'<span class="swatch" style="background:{_hex(class_id)}"></span>'


@dataclass(frozen=True)
class PageBox:
    """A box on a picture.

    Attributes:
        corners: ``(x1, y1, x2, y2)`` as shares of the picture.
        class_id: Whose colour it has; None: white.
        name: Plain text above it, and under the pointer.
        dashed: Whether its line is dashed.
        named: Whether its name shows without the pointer.
    """

    corners: tuple[float, float, float, float]
    class_id: int | None
    name: str
    dashed: bool = False
    named: bool = True


def figure(picture: Image.Image, boxes: Sequence[PageBox], caption: str) -> str:
    """A picture, made small, its boxes as vectors: the browser has letters of every script. ``caption``: plain text."""
    # Letters and lines are as large on a small picture as on a large one.
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    named = sum(box.named for box in boxes) <= _MOST_NAMES
    shapes = "".join(_outline(box, (width, height)) for box in boxes)
    if named:  # Last, so that no line crosses them.
        shapes += "".join(_label(box, (width, height)) for box in boxes if box.named)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img"><image href="{source}" width="{width}" '
        f'height="{height}"/>{shapes}</svg><figcaption>{text(caption)}</figcaption></figure>'
    )


def _outline(box: PageBox, size: tuple[int, int]) -> str:
    x1, y1, x2, y2 = _pixels(box, size)
    dashes = ' stroke-dasharray="5 4"' if box.dashed else ""
    return (
        f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="#fff" fill-opacity="0" '
        f'stroke="{_hex(box.class_id)}" stroke-width="2"{dashes}><title>{text(box.name)}</title></rect>'
    )


def _label(box: PageBox, size: tuple[int, int]) -> str:
    """The name above the box, from the edge of it that leaves more room."""
    width = size[0]
    x1, y1, x2, _ = _pixels(box, size)
    x, anchor = (x1 + 1, "start") if x1 + x2 < width else (min(x2, width) - 1, "end")
    return (
        f'<text x="{x:.1f}" y="{max(y1 - 5, 16):.1f}" text-anchor="{anchor}" font-size="19" '
        f'fill="{_hex(box.class_id)}" stroke="#000" stroke-width="4" paint-order="stroke">{text(box.name)}</text>'
    )


def _pixels(box: PageBox, size: tuple[int, int]) -> tuple[float, float, float, float]:
    (x1, y1, x2, y2), (width, height) = box.corners, size
    return x1 * width, y1 * height, x2 * width, y2 * height


def _hex(class_id: int | None) -> str:
    return "#ffffff" if class_id is None else f"#{bytes(class_color(class_id)).hex()}"
