"""What `visible_text` escapes: compared with Unicode's own lists, over all code points that this Python knows."""

import functools
import json
import sys
import unicodedata

import pytest

from agentbus.visible_text import escaped, is_hidden, json_escaped, one_line, visible, with_last_states
from support.hidden_characters import DEFAULT_IGNORABLE, hidden


# Made by the first test that needs them: each process of the tests imports this module, and one runs it.
@functools.cache
def all_hidden() -> list[str]:
    return [char for char in map(chr, range(sys.maxunicode + 1)) if hidden(char)]


def some_hidden() -> list[str]:
    """All of them, but few of the 960,000 that have no meaning yet."""
    return [char for char in all_hidden() if unicodedata.category(char) not in {"Co", "Cn"} or ord(char) % 97 == 0]


def all_shown() -> str:
    return "".join(sorted(set(map(chr, range(sys.maxunicode + 1))) - set(all_hidden())))


STAY = {
    "tabs and line ends": "one\ttwo\nthree\r\nfour\n",
    "scripts": "añb Ελλάδα Привет עברית العربية हिन्दी ภาษาไทย 日本語 한국어 ქართული",
    "a word with a non-joiner": "می‌خواهم",
    "a ligature with a joiner": "ක්‍ෂ",
    "emoji": "😀 👍🏽 🇫🇷 ❤️ ☎︎ ‼️ \u2139\ufe0f ©️ ↔️",
    "a family": "👩‍❤️‍👨 🏳️‍🌈",
    "keycaps": "1️⃣ #️⃣",
    "combining marks": "e\u0301 \u20e3 n\u0303",
    "symbols": "→ ✓ ✗ … “quoted” — € ½ ²",
}
ESCAPED = {
    "a lone carriage return": ("safe\rforged", r"safe\rforged"),
    "a carriage return before another": ("a\r\r\n", "a\\r\r\n"),
    "a sequence": ("\x1b]8;;x\x07y\x9b31m", r"\x1b]8;;x\x07y\x9b31m"),
    "a joiner between ASCII letters": ("pay\u200dpal", r"pay\u200dpal"),
    "a joiner at the end": ("می\u200c", r"می\u200c"),
    "a joiner at the beginning": ("\u200dم", r"\u200dم"),
    "two joiners": ("م\u200d\u200dم", r"م\u200d\u200dم"),
    "a joiner beside a hidden letter": ("م\u200d\u3164", r"م\u200d\u3164"),
    "a joiner before a blank": ("م\u200c م", r"م\u200c م"),
    "a second selector": ("❤\ufe0f\ufe0e", "❤\ufe0f\\ufe0e"),
    "a selector behind a letter": ("a\ufe0fé\ufe0f", r"a\ufe0fé\ufe0f"),
    "a selector behind a digit that is no keycap": ("1\ufe0f2", r"1\ufe0f2"),
    "a selector at the beginning": ("\ufe0f", r"\ufe0f"),
    "another selector behind a symbol": ("❤\ufe00\U000e0100", r"❤\ufe00\U000e0100"),
    "a selector behind a blank symbol": ("\u2800\ufe0f", r"\u2800\ufe0f"),
    "a joiner behind a selector that is escaped": ("é\ufe0f\u200dé", r"é\ufe0f\u200dé"),
    "tags": ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\\U000e0067\\U000e007f"),
    "blanks": ("a\xa0b\u2003c\u3000d\u2800e", r"a\xa0b\u2003c\u3000d\u2800e"),
}


def test_exactly_what_unicode_hides_is_escaped():
    shown = all_shown()
    assert [f"{ord(char):04X}" for char in all_hidden() if not is_hidden(char)] == []
    assert [f"{ord(char):04X}" for char in shown if is_hidden(char)] == []
    assert len(shown) > 100_000


def test_every_hidden_character_is_escaped_wherever_it_stands_alone():
    chars = some_hidden()
    shown = "a".join(map(escaped, chars))
    assert shown.isascii()
    assert shown.isprintable()
    assert one_line("a".join(chars)) == shown
    assert visible("a".join(chars)) == shown.replace(r"\t", "\t").replace(r"\n", "\n")


def test_every_other_character_stays():
    shown = all_shown()
    assert visible(shown) == one_line(shown) == shown


def test_the_code_points_that_unicode_calls_ignorable_are_all_escaped():
    """The list in the tests is that of the standard; this Python's database agrees where it can tell."""
    assert all(is_hidden(chr(point)) for point in DEFAULT_IGNORABLE)
    ignorable = {"Cf", "Cn", "Mn", "Lo"}
    assert {unicodedata.category(chr(point)) for point in DEFAULT_IGNORABLE} == ignorable


@pytest.mark.parametrize("text", STAY.values(), ids=STAY)
def test_what_people_write_stays(text: str):
    assert visible(text) == text


@pytest.mark.parametrize(("text", "shown"), ESCAPED.values(), ids=ESCAPED)
def test_what_could_hide_something_is_shown(text: str, shown: str):
    assert visible(text) == shown
    assert visible(shown) == shown


def test_one_line_is_printable_whatever_it_was_made_from():
    for text in [*STAY.values(), *(text for text, _ in ESCAPED.values())]:
        line = one_line(text)
        assert line.isprintable()
        assert not any(hidden(char) for char in line)


def test_as_json_the_escapes_mean_the_characters():
    text = "".join(char for char in some_hidden() if not 0xD800 <= ord(char) < 0xE000)
    shown = visible(json.dumps(text, ensure_ascii=False), json_escaped)
    assert shown == one_line(json.dumps(text, ensure_ascii=False), json_escaped)
    assert shown.isprintable()
    assert json.loads(shown) == text
    assert json_escaped("\ud800") == r"\ud800"


def test_a_text_in_two_parts_shows_no_more_than_the_whole():
    """Where a text is cut, a character loses its neighbour; then it is escaped, and never the other way round."""
    for text in STAY.values():
        for at in range(len(text)):
            kept = [char for char in visible(text[:at]) + visible(text[at:]) if hidden(char)]
            assert len(kept) <= sum(map(hidden, text))


def test_a_progress_bar_is_folded_to_its_last_state_unless_anything_else_is_hidden_in_it():
    assert with_last_states("a\n10%\r\x1b[K\t20%\r\x1b[2K30%\nb") == "a\n30% [2 earlier states of this line]\nb"
    assert with_last_states("one line\r\nand another\r\n") == "one line\r\nand another\r\n"
    for hidden_in in ("x\x1b[1A\ry", "x\u202e\ry", "x\ry\x07", "x\ry\u200b"):
        assert with_last_states(hidden_in) == hidden_in
