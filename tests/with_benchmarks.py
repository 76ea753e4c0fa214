"""Makes the benchmarks folder importable for its tests, or skips them: a copy of the tests alone has none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks folder is not part of this copy", allow_module_level=True)
# At the end: the tree's tinyssd_ops, which may have no kernels, must not hide the installed one.
sys.path.append(str(ROOT))
