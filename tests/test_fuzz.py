"""The fuzzer itself: past failures, a few hundred cases, and that it sees a fault and writes it down."""

from __future__ import annotations

import json
import random
from typing import Any

import conftest
import fuzz
import fuzz_cases
import pytest
import torch
from garbage import garbage

from tinyssd_ops import reference

if conftest.SIMT:
    pytest.skip("the fuzzer compares the package's own kernels", allow_module_level=True)


@pytest.mark.parametrize("path", sorted(fuzz.CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_past_failures(path):
    fuzz.replay(path)


def test_a_few_hundred_cases(tmp_path):
    done, failures = fuzz.fuzz(60, 0, tmp_path, count=300)
    assert (done, failures) == (300, 0)


def test_files_replay():
    for seed in range(60):
        case = fuzz_cases.draw(random.Random(seed), ["baseline"])
        again = fuzz_cases.Case.from_json(json.loads(json.dumps(case.to_json())))
        assert vars(again) | {"args": ()} == vars(case) | {"args": ()}
        for one, two in zip(again.arguments(), case.arguments(), strict=True):
            if isinstance(two, torch.Tensor):
                assert one.dtype == two.dtype
                assert one.stride() == two.stride()
                assert fuzz_cases.values_of(one) == fuzz_cases.values_of(two)
            else:
                assert one == two


@pytest.mark.parametrize("layout", fuzz_cases.LAYOUTS)
def test_layouts(layout):
    tensor = torch.arange(24.0).view(2, 3, 4)
    there = fuzz_cases.laid_out(tensor, layout)
    assert torch.equal(there, tensor)
    assert (there.is_contiguous(), there.data_ptr() % 4 == 0) == (
        layout in ("contiguous", "odd address"),
        layout != "odd address",
    )


def test_a_fault_is_found_and_written(tmp_path, monkeypatch):
    """A threshold that is compared with >=, as seen by the loops alone: kernel and reference share the fault."""
    right = reference.nms

    def wrong(boxes, scores, threshold):
        return right(boxes, scores, max(threshold - 1e-6, 0.0))

    monkeypatch.setattr(fuzz, "KERNELS", None)
    monkeypatch.setattr(reference, "nms", wrong)
    monkeypatch.setattr(fuzz_cases, "MANY", 60)
    monkeypatch.setattr(fuzz_cases, "DRAWN", {"nms": fuzz_cases.DRAWN["nms"]})
    _, failures = fuzz.fuzz(60, 0, tmp_path, count=300)
    files = sorted(tmp_path.glob("nms-*.json"))
    assert failures == len(files) > 0
    with pytest.raises(AssertionError, match="the reference and the oracle"):
        fuzz.replay(files[0])
    monkeypatch.setattr(reference, "nms", right)
    fuzz.replay(files[0])


def test_what_a_kernel_does_not_write_is_garbage():
    with garbage():
        values: Any = torch.empty(3), torch.ones(2).new_empty(4, dtype=torch.int64)
    assert values[0].isnan().all()
    assert (values[1] == 2**63 - 1).all()
    assert not torch.are_deterministic_algorithms_enabled()
