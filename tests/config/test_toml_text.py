"""The TOML that agentbus writes: its form, and that any reader finds in it what was written."""

import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.config.toml_text import toml_text

WRITTEN = """\
[bus]
version = 1
url = "tls://[::1]:7422"
ca = "/srv/a \\"bus\\"/ca.pem"
wait_s = 0.2
tls_first = true
members = ["a", "b"]
none = []
# What can be said above a key.
notes = "zwei\\nZeilen\\tund ü \U0001f600 \\\\ \\u007f \\u0001"

[party.admin]
nkey = "UA"

[party.code]
may_task = ["doc"]
"""


def test_sections_are_written_in_their_order_with_a_line_between_them():
    bus: dict[str, Any] = {
        "version": 1,
        "url": "tls://[::1]:7422",
        "ca": PurePosixPath('/srv/a "bus"/ca.pem'),
        "left_out": None,
        "wait_s": 0.2,
        "tls_first": True,
        "members": ("a", "b"),
        "none": [],
        "notes": "zwei\nZeilen\tund ü \U0001f600 \\ \x7f \x01",
    }
    parties: dict[str, Any] = {"admin": {"nkey": "UA", "password_hash": None}, "code": {"may_task": ["doc"]}}
    text = toml_text({"bus": bus, "party": parties}, remarks={"notes": "What can be said above a key."})
    assert text == WRITTEN


@pytest.mark.parametrize("sections", [{}, {"empty": {}}, {"empty": {"none": None}}, {"outer": {"inner": {}}}])
def test_what_is_empty_can_be_read(sections: dict[str, dict[str, Any]]):
    read = tomllib.loads(toml_text(sections))
    assert read == {
        name: {key: value for key, value in keys.items() if value is not None} for name, keys in sections.items()
    }


KEYS = st.from_regex(r"\A[A-Za-z0-9_-]{1,10}\Z")
VALUES = st.text(max_size=20) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False)
SECTIONS = st.dictionaries(KEYS, VALUES | st.lists(st.text(max_size=5), max_size=3), max_size=4)


@given(st.dictionaries(KEYS, SECTIONS, max_size=3), st.dictionaries(KEYS, SECTIONS, max_size=3))
def test_every_value_is_read_as_it_was(sections: dict[str, dict[str, Any]], nested: dict[str, dict[str, Any]]):
    wanted = {**sections, "nested": nested}
    assert tomllib.loads(toml_text(wanted)) == wanted
