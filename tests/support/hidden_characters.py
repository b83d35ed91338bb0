"""What a terminal must not get from another party, as Unicode tells it, and texts that hold all of it."""

import unicodedata
from typing import Final

DEFAULT_IGNORABLE: Final = [
    point
    for first, last in [
        (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
        (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
        (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
    ]
    for point in range(first, last + 1)
]  # fmt: skip
"""Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 17.0; reserved code points are in it already."""
_CATEGORIES: Final = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
_IGNORABLE: Final = {chr(point) for point in DEFAULT_IGNORABLE}
_BLANK_NAMES: Final = ("BRAILLE PATTERN BLANK", "FULL BLANK", "HALF BLANK", "NULL NOTEHEAD", "SMALL SCRIPT FILLER")
"""Symbols and letters without ink that Unicode does not call ignorable."""


def hidden(char: str) -> bool:
    """Whether a character has no shape or no meaning that a reader could know. A tab and a line end have none."""
    if char == " ":
        return False
    if unicodedata.category(char) in _CATEGORIES or char in _IGNORABLE:
        return True
    return unicodedata.name(char, "").endswith(_BLANK_NAMES)


SEQUENCES: Final = [
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]0;title\x07\x1b[38;5;201m\x1b[2J\x1bc",
    "\x9d52;c;ZXZpbA==\x9c\x9b38;5;201m\x9b2J\x90q\x9c",
]
"""A link, the clipboard, the title, colours and the screen: with escape characters, and in the form of eight bits."""
_SINGLE: Final = [
    *map(chr, [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA1), 0xAD]),
    *"\u034f\u061c\u06dd\u115f\u1160\u1680\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2000\u2003\u200b\u200c\u200d",
    *"\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2063\u2064\u2065\u2066\u2067\u2068",
    *"\u2069\u206a\u206f\u2800\u3000\u3164\ue000\ufdd0\ufe00\ufe0e\ufe0f\ufeff\uffa0\ufff0\ufff9\ufffb\uffff",
    *"\U0001d159\U0001d173\U0001bca0\U000e0001\U000e0020\U000e0041\U000e007f\U000e0100\U000e01ef\U000e0fff",
    *"\U000f0000\U0010ffff",
]
ALL: Final = "".join(
    [*SEQUENCES, *(f"x{char}" for char in _SINGLE), "a\rb", "[bold]m[/bold][link=http://evil]n[/link]"]
)
"""All of it in one text."""


def pieces(chars: int, without: str = "") -> list[str]:
    """The same in texts of at most so many characters; each has a sequence in it as well."""
    first = SEQUENCES[1]
    text = "".join(char for char in ALL if char not in without)
    step = chars - len(first)
    return [first + text[at : at + step] for at in range(0, len(text), step)]
