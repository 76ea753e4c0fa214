"""Everything that a check found, in one value: what the three kinds of report are written from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tinyssd.check import boxes, classes, pictures
from tinyssd.check.anchors import AnchorFit, anchors_and_sizes, fit_anchors
from tinyssd.check.classes import class_counts
from tinyssd.check.snapshot import Snapshot
from tinyssd.data.draft import Problems
from tinyssd.data.labels import Problem, Severity
from tinyssd.model.build import ModelConfig

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# What a reader says too, of fewer cases.
_ALSO_CHECKED = ("names alike",)

CHECKS = (
    pictures.unreadable_pictures,
    pictures.missing_splits,
    pictures.same_pictures,
    pictures.pictures_without_objects,
    boxes.boxes_outside,
    boxes.boxes_without_area,
    boxes.doubled_boxes,
    boxes.boxes_before_turn,
    boxes.turned_pictures,
    classes.unknown_classes,
    classes.names_alike,
    classes.phantom_classes,
    classes.missing_from_split,
    classes.class_balance,
    classes.thinly_labelled,
)


@dataclass(frozen=True)
class Group:
    """The findings of one kind and severity.

    Attributes:
        kind: The kind.
        severity: The severity.
        findings: By file and line.
        count: How many there are, which may be more than are listed.
    """

    kind: str
    severity: Severity
    findings: tuple[Problem, ...]
    count: int


@dataclass(frozen=True)
class SplitRow:
    """What a split holds: pictures, those without objects, objects, ignored ones among them."""

    name: str
    pictures: int
    empty: int
    objects: int
    ignored: int


@dataclass(frozen=True)
class ClassRow:
    """A class: its objects in each split, and the share of those to train on that an anchor meets (None: no object)."""

    name: str
    objects: dict[str, int]
    met: float | None


@dataclass(frozen=True)
class Report:
    """A checked data set.

    Attributes:
        snapshot: What was looked at.
        groups: What was found, the worst first.
        fit: How the anchors fit; None without objects to train on.
        splits: A row a split.
        classes: A row a class.
    """

    snapshot: Snapshot
    groups: tuple[Group, ...]
    fit: AnchorFit | None
    splits: tuple[SplitRow, ...]
    classes: tuple[ClassRow, ...]

    def count(self, severity: Severity) -> int:
        """How many findings of a severity there are."""
        return sum(group.count for group in self.groups if group.severity == severity)

    @property
    def worst(self) -> Severity | None:
        """The worst severity; None where nothing was found."""
        return self.groups[0].severity if self.groups else None


def examine(snapshot: Snapshot, network: ModelConfig) -> Report:
    """Runs all checks.

    Args:
        snapshot: The data set.
        network: Whose anchors the boxes are compared with.
    """
    fit = fit_anchors(snapshot, network)
    read = [problem for problem in snapshot.data.problems if problem.kind not in _ALSO_CHECKED]
    found = Problems()
    for check in CHECKS:
        for finding in check(snapshot):
            found.take(finding)
    findings = [*read, *found.all(), *anchors_and_sizes(snapshot, fit)]
    return Report(snapshot, _grouped(findings), fit, _split_rows(snapshot), _class_rows(snapshot, fit))


def _grouped(findings: Sequence[Problem]) -> tuple[Group, ...]:
    groups: dict[tuple[Severity, str], list[Problem]] = defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.kind].append(finding)
    found = (
        Group(kind, severity, tuple(sorted(items, key=_place)), sum(item.count for item in items))
        for (severity, kind), items in groups.items()
    )
    return tuple(sorted(found, key=lambda group: SEVERITIES.index(group.severity)))


def _place(finding: Problem) -> tuple[bool, str, int]:
    """By file and line; what stands for the rest of a kind comes last."""
    return finding.count > 1, str(finding.file or ""), finding.line or 0


def _split_rows(snapshot: Snapshot) -> tuple[SplitRow, ...]:
    rows = []
    for name, found in snapshot.data.splits.items():
        objects = [item for picture in found for item in picture.objects]
        empty = sum(not picture.objects for picture in found)
        rows.append(SplitRow(name, len(found), empty, len(objects), sum(item.ignored for item in objects)))
    return tuple(rows)


def _class_rows(snapshot: Snapshot, fit: AnchorFit | None) -> tuple[ClassRow, ...]:
    counts = {split: class_counts(snapshot, split) for split in snapshot.data.splits}
    rows = []
    for i, name in enumerate(snapshot.data.class_names):
        met = fit.now.by_class.get(i) if fit else None
        rows.append(ClassRow(name, {split: counts[split][i] for split in counts}, met))
    return tuple(rows)
