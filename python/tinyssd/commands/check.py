"""``tinyssd check``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tinyssd.commands.common import Commands
from tinyssd.commands.data_options import add_data_options, choice
from tinyssd.errors import ConfigError
from tinyssd.text import printable

if TYPE_CHECKING:
    from tinyssd.check.report import Report
    from tinyssd.check.snapshot import Snapshot

EXIT_WARNINGS = 1
EXIT_FINDINGS = 3  # 2 is that of a command that could not do its work.


def add(commands: Commands) -> None:
    """Declares ``tinyssd check``."""
    parser = commands.add_parser(
        "check",
        help="find what is wrong with a data set",
        description="Decode every picture, look at every label, and list all that is wrong, with file and line.",
        epilog="Exit status: 0 where nothing worse than a note was found, 1 after warnings, 3 after errors; 2 where "
        "the data set could not be checked at all.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="the data set: a folder, or a label file in it")
    add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--all", action="store_true", help="list all findings of each kind, not the first 20")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with tables and pictures")
    parser.add_argument("--examples", type=Path, metavar="FILE", help="draw labelled training pictures into a PNG file")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT",
        help="write a mended copy of the data set into a new folder, in COCO's format; the original is not touched",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longer side of the input (default: by the objects)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads that decode (default: one for each core)")
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> int:
    from tinyssd.check.anchors import default_network
    from tinyssd.check.report import examine
    from tinyssd.check.report_text import LISTED, to_json, to_text
    from tinyssd.check.snapshot import take_snapshot
    from tinyssd.check.write import refuse_folder
    from tinyssd.data.read import read_data_set
    from tinyssd.model.pyramid import STRIDES

    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers: expected at least 1, got {options.workers}")
    if options.image_size is not None and options.image_size < STRIDES[-1]:
        raise ConfigError(f"--image-size: expected at least {STRIDES[-1]}, got {options.image_size}")
    if options.fix is not None:
        refuse_folder(options.fix, options.data)
    snapshot = take_snapshot(read_data_set(options.data, choice(options)), options.workers, progress=True)
    report = examine(snapshot, default_network(snapshot, options.image_size))
    print(to_json(report) if options.json else to_text(report, None if options.all else LISTED))
    _write_files(options, report)
    return {"error": EXIT_FINDINGS, "warning": EXIT_WARNINGS}.get(report.worst or "", 0)


def _write_files(options: argparse.Namespace, report: Report) -> None:
    """What was asked for beside the text; it is said on standard error, as JSON may stand on the other."""
    from tinyssd.check.examples import save_examples
    from tinyssd.check.report_html import to_html
    from tinyssd.files import write_atomically

    if options.html is not None:
        page = to_html(report)
        write_atomically(options.html, lambda temporary: temporary.write_text(page, encoding="utf-8"))
        _say(f"wrote {options.html}")
    if options.examples is not None:
        save_examples(report.snapshot, options.examples)
        _say(f"wrote {options.examples}")
    if options.fix is not None:
        _say(f"wrote {options.fix}: {_changes(_fix(report.snapshot, options.fix))}")


def _fix(snapshot: Snapshot, out: Path) -> Counter[str]:
    from tinyssd.check.mend import mend
    from tinyssd.check.write import write_coco

    mended = mend(snapshot)
    write_coco(mended.data, out)
    return mended.changes


def _changes(changes: Counter[str]) -> str:
    put_right = ", ".join(f"{kind} ({count})" for kind, count in changes.items())
    return f"put right: {put_right}" if changes else "nothing had to be put right"


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)
