"""Fetches d2l's banana data set."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from tinyssd.errors import DataError

BANANA_URL = "http://d2l-data.s3-accelerate.amazonaws.com/banana-detection.zip"
BANANA_SHA1 = "5de26c8fce5ccdea9f91267273464dc968d20d72"

_TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where fetched data sets are kept: ``$XDG_CACHE_HOME/tinyssd`` or ``~/.cache/tinyssd``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinyssd"


def fetch_banana(cache: Path, url: str = BANANA_URL, sha1: str = BANANA_SHA1) -> Path:
    """The folder of d2l's banana data set, fetched and unpacked if it is not in ``cache`` yet.

    Args:
        cache: The cache folder; made if need be.
        url: Where the archive is.
        sha1: What it must hash to.

    Returns:
        The folder with ``bananas_train`` and ``bananas_val``.

    Raises:
        DataError: If the archive cannot be fetched (the message says where to put a copy), has another hash, or holds
            a path that leads out of it.
    """
    folder = cache / "banana-detection"
    if folder.is_dir():
        return folder
    archive = cache / "banana-detection.zip"
    cache.mkdir(parents=True, exist_ok=True)
    if not archive.is_file():
        _download(url, archive)
    found = _sha1(archive)
    if found != sha1:
        raise DataError(f"{archive}: its SHA-1 is {found}, expected {sha1}; delete it and try again")
    _unpack(archive, folder)
    return folder


def _download(url: str, target: Path) -> None:
    print(f"fetching {url}", file=sys.stderr, flush=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
        ):
            shutil.copyfileobj(response, file, _CHUNK_BYTES)
        temporary.replace(target)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"could not fetch {url} ({reason}); fetch it on a machine with a network connection and put it at "
            f"{target}, or train without a download: --data synthetic"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        # Identifies the file; the publisher gives no stronger hash.
        digest = hashlib.sha1(usedforsecurity=False)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks into a temporary folder and moves it into place, so ``folder`` is whole if it is there."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
        try:
            with zipfile.ZipFile(archive) as zip_file:
                for name in zip_file.namelist():
                    path = PurePosixPath(name.replace("\\", "/"))
                    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts):
                        raise DataError(f"{archive}: holds a path that leads out of the archive: {name}")
                zip_file.extractall(temporary)
        except zipfile.BadZipFile as error:
            raise DataError(f"{archive}: not a whole zip archive; delete it and try again") from error
        roots = [path.parent for path in Path(temporary).rglob("*_train") if path.is_dir()]
        if len(roots) != 1:
            raise DataError(f"{archive}: expected one folder named *_train, found {len(roots)}")
        roots[0].replace(folder)
