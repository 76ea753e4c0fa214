"""The machine code of box_iou: how many instructions a pair takes."""

from __future__ import annotations

import pytest
import with_benchmarks  # noqa: F401  # Makes benchmarks importable.

from benchmarks import instructions

LISTING = """
.text._Z3one:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, [R2] ;
        /*0020*/                   MUFU.RCP R8, R4 ;
        /*0030*/                   MUFU.RCP R9, R5 ;
        /*0040*/              @!P0 BRA `(.L_x_2) ;
        /*0050*/                   CALL.REL.NOINC `(two) ;
.L_x_2:
        /*0060*/                   STG.E.64 [R2], R8 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   MUFU.RCP R9, R5 ;
        /*0090*/                   BRA `(.L_x_3) ;
"""


def test_loops_that_store_are_counted():
    assert list(instructions.loops(LISTING)) == [instructions.Loop("_Z3one", 7, 2, 1)]
    assert next(instructions.loops(LISTING)).each == 3.5


@pytest.mark.skipif(instructions.missing() is not None, reason=str(instructions.missing()))
def test_a_pair_of_box_iou():
    # Ordinary boxes in rows of aligned floats, which need no subroutine: 6 minima and maxima, 4 additions, 2 products
    # and a division of 5 are 17 instructions; 3 more are a share of the row's area, the loads, the store and the loop.
    found = [loop for loop in instructions.loops(instructions.disassembled()) if "kernelIfLb1E" in loop.kernel]
    assert [loop.pairs for loop in found] == [8, 8]
    assert min(loop.each for loop in found if loop.calls == 0) <= 20.5
    assert max(loop.each for loop in found) <= 34.5
