"""Text from outside on its way to a terminal or a page."""

from __future__ import annotations

import unicodedata

# Some scripts and emoji need them between their letters.
_JOINERS = "\u200c\u200d"
# Controls, invisible formatting such as a change of direction, half characters, separators of lines and paragraphs.
_ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    r"""``text`` on one line and without anything that a terminal would obey.

    Names of files and classes come from other people: an escape sequence in one could recolour, retitle or overwrite
    what a terminal shows, a line break could forge a message, a change of direction could hide an ending. Such
    characters become what Python writes for them (``\x1b``, ``\n``, ``\u202e``); letters of every script stay, and so
    does a text that was escaped before.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun; ``many`` where the plural is not the noun and an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    return character.encode("unicode_escape").decode("ascii")
