"""Text from outside, as it is printed."""

from __future__ import annotations

import sys

import pytest
from tinyssd.text import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("banana", "banana"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("one\ntwo\rthree\ttabs", r"one\ntwo\rthree\ttabs"),
        ("photo\u202egnp.exe\u2066", r"photo\u202egnp.exe\u2066"),
        ("bytes \udcff in a name", r"bytes \udcff in a name"),
        ("lines\u2028paragraphs\u2029", r"lines\u2028paragraphs\u2029"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        "Möhre",
        "香蕉",
        "한국어",
        "केला",
        "\u0645\u0648\u0632",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "👩\u200d🌾",
        "a\u3000b",
        "a\u00a0b",
    ],
)
def test_letters_of_every_script_stay(name):
    assert printable(name) == name


def test_no_control_character_of_any_kind_survives():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    shown.encode("utf-8")
