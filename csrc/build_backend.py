"""The build backend: setuptools' own, which asks for torch only where kernels are built and no torch is at hand.

pip builds in an environment of its own, without the packages beside which this one will be installed. A torch among
those serves: its folder is put behind that environment's. Else the build asks for one, at most as new as
constraints.txt, so that the README's commands fetch one torch and not two. It binds nobody at run time.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import site
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toolchain
from setuptools import build_meta
from setuptools.build_meta import build_sdist  # noqa: F401  (a hook)

ROOT = Path(__file__).resolve().parents[1]
Settings = dict[str, Any] | None


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Nothing but setuptools."""
    return []


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What the kernels need; nothing for the pure-Torch package."""
    if toolchain.setting("TINYSSD_OPS_NATIVE", "1") == "0":
        return []
    return ["ninja", "pybind11>=2.12", *([] if installed_torch() else [wanted_torch()])]


get_requires_for_build_editable = get_requires_for_build_wheel


def installed_torch() -> str | None:
    """The version of a new enough torch in the environment that this package goes to; its folder joins sys.path."""
    if importlib.util.find_spec("torch") is None:
        for folder in site.getsitepackages():
            site.addsitedir(folder)
    found = next(iter(importlib.metadata.distributions(name="torch")), None)
    return found.version if found is not None and toolchain.is_new_enough(found.version) else None


def wanted_torch() -> str:
    """The requirement: the range, up to what constraints.txt pins."""
    oldest = ".".join(map(str, toolchain.TORCH_TARGET))
    pinned = re.search(r"^torch==([\d.]+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return f"torch>={oldest}" + (f",<={pinned[1]}" if pinned else "")


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Settings = None) -> str:
    """The name of the folder with the metadata."""
    toolchain.require_setuptools()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """The name of the wheel."""
    with _tree():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """The name of the wheel that points to this tree."""
    with _tree():
        return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


@contextlib.contextmanager
def _tree() -> Iterator[None]:
    """The source tree for one build at a time, without what an earlier one collected for its package."""
    toolchain.require_setuptools()
    if toolchain.setting("TINYSSD_OPS_NATIVE", "1") == "1":
        installed_torch()
    build = ROOT / "build"
    try:
        build.mkdir(exist_ok=True)
        lock = (build / ".lock").open("a")
    except OSError as error:
        raise SystemExit(f"a build writes into its source tree: {error}; copy the tree to where you may") from None
    with lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        # Objects stay in build/temp*: what did not change is not compiled again.
        for collected in build.glob("lib*"):
            shutil.rmtree(collected)
        yield
