"""The pages: every snippet runs, and the reference builds without a warning."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import cases
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide.py"
# The pages of the library; those of the application have tests of their own, or nothing to run.
NAMES = re.findall(r"^\.\. include:: (.*)$", GUIDE.read_text() if GUIDE.exists() else "", re.MULTILINE)
PAGES = [ROOT / "docs" / name for name in NAMES]
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_snippet(text, tmp_path):
    if "# needs: torchvision" in text or "patched()" in text:
        cases.torchvision()
    torch.manual_seed(0)
    torch._dynamo.reset()
    (tmp_path / "snippet.py").write_text(text)  # a file, as torch.jit.script reads the source
    runpy.run_path(str(tmp_path / "snippet.py"))


@pytest.mark.skipif(not PAGES, reason="the pages are in the source tree")
def test_reference_builds(tmp_path):
    pytest.importorskip("pdoc")
    command = [str(ROOT / "docs" / "build"), str(tmp_path)]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": path})
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "tinyssd_ops.html").read_text()
    assert all(f'id="{name}"' in page for name in ("nms_padded", "box_iou", "assign_simota", "soft_nms"))
    guide = (tmp_path / "guide.html").read_text()
    assert all(title in guide for title in re.findall(r"^# (.*)$", "".join(p.read_text() for p in PAGES), re.MULTILINE))
