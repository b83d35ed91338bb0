r"""Escapes what a person cannot see or what acts on a terminal, for every place that shows text of others.

Hidden is what has no shape of its own: controls, format characters and overrides of the writing direction, separators
of lines and paragraphs, tags, variation selectors, fillers, every blank but the space; and what has no meaning that a
reader could know: private use, noncharacters, surrogates, and code points that this Python's Unicode does not know. A
newer terminal may make anything of the last. Each is written as `\x1b` or `\u202e`, so that a person sees that it was
there.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

_WITHOUT_INK: Final = re.compile(
    # Default_Ignorable_Code_Point where `str.isprintable` says yes: letters and marks that no font shows.
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
    # Blanks that are letters or symbols by their category.
    r"\u2800\U00013441\U00013442\U00016fe4\U0001d159]"
)
_NOT_ASCII_LINES: Final = re.compile(r"[^\t\n -~]+")
_NOT_ASCII: Final = re.compile(r"[^ -~]+")
_JOINERS: Final = "\u200c\u200d"
_PRESENTATION: Final = "\ufe0e\ufe0f"
"""The variation selectors that show a symbol as text or as an emoji."""
_EMOJI_OF_OTHER_CATEGORIES: Final = "\u203c\u2049\u2139\u3030"
_KEYCAP: Final = "\u20e3"
_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m")
_OVERWRITTEN: Final = re.compile(r"(?m)^[^\n]*\r[^\r\n][^\n]*$")
"""A line of which a carriage return overwrites the beginning. One at its end belongs to the line end."""
_ERASED: Final = re.compile(r"\x1b\[[0-2]?K")
"""What erases a line: programs print it before or after they overwrite one."""
_SHORT_IN_JSON: Final[Mapping[str, str]] = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def is_hidden(char: str) -> bool:
    """Tell whether a character is one that this module escapes; a tab and a line end are."""
    return not char.isprintable() or _WITHOUT_INK.match(char) is not None


def escaped(char: str) -> str:
    r"""Write a character as `\x1b`, `\u202e` or `\U000e0041`."""
    return char.encode("unicode_escape").decode()


def json_escaped(char: str) -> str:
    r"""Write a character as JSON does: `\u001b`, and `\udb40\udc41` for one beyond the first plane."""
    if char in _SHORT_IN_JSON:
        return _SHORT_IN_JSON[char]
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def visible(text: str, escape: Callable[[str], str] = escaped) -> str:
    """Escape what is hidden in a text of several lines.

    Tabs and line ends stay, and so do hidden characters where a script or an emoji is written with them: a single
    joiner between two letters or symbols outside ASCII, and a selector of the presentation behind a symbol.
    """

    def shown(run: re.Match[str]) -> str:
        if not _has_hidden(run[0]):
            return run[0]
        return "".join(
            char if not is_hidden(char) or _in_its_place(text, at) else escape(char)
            for at, char in enumerate(run[0], run.start())
        )

    return _NOT_ASCII_LINES.sub(shown, text)


def without_colours(text: str) -> str:
    """Leave out what sets colours and weights: many programs print that, and no character is hidden by its absence.

    What is left may still act on a terminal: `visible` comes after it.
    """
    return _COLOURS.sub("", text)


def with_last_states(text: str, *, before: int = 0) -> str:
    """Fold progress bars: of a line that a carriage return begins anew, leave the last state, and say of how many.

    The number is said because a program that reads the text still reads the earlier states, and a person has to know
    that there is more than is shown. A line in which anything else is hidden is no progress bar, and stays as it is.

    Args:
        before: how many states of the first line were left out already.
    """

    def shown(line: re.Match[str]) -> str:
        count, left = without_earlier_states(line[0].rstrip("\r"), before if line.start() == 0 else 0)
        left = left.removeprefix("\r") if count else left
        return f"{left} [{count} earlier {'state' if count == 1 else 'states'} of this line]" if count else left

    return _OVERWRITTEN.sub(shown, f"\r{text}" if before else text)


def without_earlier_states(line: str, before: int = 0) -> tuple[int, str]:
    """Fold one line, which may go on; returns how many states were left out, those `before` included, and what is left.

    See `with_last_states`.
    """
    states = _ERASED.sub("", line).rstrip("\r").split("\r")
    if any(_has_hidden(state.replace("\t", " ")) for state in states):
        return before, line
    end = "\r" if line.endswith("\r") else ""
    return before + len([state for state in states[:-1] if state.strip(" ")]), states[-1] + end


def one_line(text: str, escape: Callable[[str], str] = escaped) -> str:
    """Escape everything that is hidden, line ends and tabs too: what comes out is one line, and printable."""

    def shown(run: re.Match[str]) -> str:
        if not _has_hidden(run[0]):
            return run[0]
        return "".join(escape(char) if is_hidden(char) else char for char in run[0])

    return _NOT_ASCII.sub(shown, text)


def _has_hidden(text: str) -> bool:
    return not text.isprintable() or _WITHOUT_INK.search(text) is not None


def _in_its_place(text: str, at: int) -> bool:
    """Tell whether a hidden character stands where it does what it was made for, and can carry nothing else."""
    char, before, after = text[at], text[max(at - 1, 0) : at], text[at + 1 : at + 2]
    if char == "\r":
        return after == "\n"
    if before and char in _PRESENTATION:
        return _is_symbol(before) or (before in "#*0123456789" and after == _KEYCAP)
    if before and after and char in _JOINERS:
        return (_is_joined(before) or _is_presentation(text, at - 1)) and _is_joined(after)
    return False


def _is_presentation(text: str, at: int) -> bool:
    return text[at] in _PRESENTATION and _in_its_place(text, at)


def _is_symbol(char: str) -> bool:
    """Tell whether a character may be shown as an emoji: a symbol outside ASCII."""
    if char.isascii() or is_hidden(char):
        return False
    return unicodedata.category(char) in {"So", "Sm"} or char in _EMOJI_OF_OTHER_CATEGORIES


def _is_joined(char: str) -> bool:
    """Tell whether a joiner can have an effect on a character: a letter, a mark or a symbol outside ASCII."""
    return not char.isascii() and not is_hidden(char) and unicodedata.category(char)[0] in "LMS"
