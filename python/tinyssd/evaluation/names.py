"""A data set whose classes have the numbers of another one, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyssd.data.source import Example, Source
from tinyssd.errors import DataError


class ByName:
    """The examples of a source with the classes of a trained network.

    Objects of classes that the network does not know are left out: it was never asked to find them.

    Args:
        source: Pictures with labels.
        class_names: The classes of the network, without background.

    Attributes:
        unknown: The classes of the source that the network does not know.

    Raises:
        DataError: If the two have no class in common.
    """

    def __init__(self, source: Source, class_names: Sequence[str]) -> None:
        self.class_names, self.max_boxes, self._source = tuple(class_names), source.max_boxes, source
        self.unknown = tuple(name for name in source.class_names if name not in self.class_names)
        if len(self.unknown) == len(source.class_names):
            raise DataError(
                f"the data set has the classes {', '.join(source.class_names)}, the run finds "
                f"{', '.join(class_names)}: none in common"
            )
        known = [self.class_names.index(name) if name in self.class_names else -1 for name in source.class_names]
        self._number = np.array(known, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._source)

    def example(self, index: int, epoch: int) -> Example:
        """As the source gives it, the classes numbered anew."""
        example = self._source.example(index, epoch)
        labels = example.labels.copy()
        labels[:, 0] = self._number[labels[:, 0].astype(np.int64)]
        return Example(example.image, labels[labels[:, 0] >= 0])
