"""From the name of a data set to its pictures."""

from __future__ import annotations

from pathlib import Path

from tinyssd.data.config import SEED_LIMIT, DataConfig
from tinyssd.data.fetch import cache_folder, fetch_banana
from tinyssd.data.folder import open_folder
from tinyssd.data.source import Source
from tinyssd.data.synthetic import SyntheticSource
from tinyssd.errors import DataError

# Generated validation pictures come from another seed than any the training may use.
_VALIDATION_SEED = SEED_LIMIT


def open_data(config: DataConfig, image_size: tuple[int, int], seed: int = 0) -> tuple[Source, Source]:
    """The training and the validation pictures.

    Args:
        config: Which data set.
        image_size: Height and width at which generated pictures are drawn; stored ones keep theirs.
        seed: Of the generated training pictures.

    Raises:
        DataError: If the data set is missing or a file of it is wrong.
    """
    if config.name == "synthetic":
        side = max(image_size)
        train = SyntheticSource(config.train_size, side, seed, fresh=True)
        return train, SyntheticSource(config.val_size, side, _VALIDATION_SEED)
    if config.name == "banana":
        return open_folder(fetch_banana(cache_folder()))
    folder = Path(config.name)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one, or the name 'synthetic' or 'banana'")
    return open_folder(folder)
