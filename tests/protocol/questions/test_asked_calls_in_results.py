"""The call of a tool before which a run has ended, as a result has it."""

from typing import Any

import pytest

from agentbus.protocol.json_codec import encode
from agentbus.protocol.questions.asked_call import AskedCall, asked_call, asked_call_in
from agentbus.protocol.questions.question import MAX_ARGUMENTS_BYTES, digest_of


def asked(arguments: Any, text: str = "I push it.") -> AskedCall:
    return asked_call("Bash", arguments, summary="git push", folder="/srv", text=text, call="toolu_1")


def test_a_call_is_read_as_it_was_written():
    call = asked({"command": "git push"})
    assert asked_call_in({"question": call.to_json()}) == call
    assert call.shown == "Bash: git push"
    assert asked({"url": "https://example.com"}).shown == 'Bash: {"url":"https://example.com"}'


def test_what_is_long_is_cut_openly_and_keeps_the_digest_of_the_whole():
    whole = {"command": "ä" * 20_000}
    call = asked(whole, "x" * 5_000 + "the end")
    read = asked_call_in({"question": call.to_json()})
    assert read == call
    assert call.arguments_digest == digest_of(whole)
    assert call.arguments_bytes == len(encode(whole))
    assert len(encode(call.arguments)) <= MAX_ARGUMENTS_BYTES
    assert call.arguments.endswith("…")
    assert call.text.endswith("the end")
    assert len(call.text) == 2_048


@pytest.mark.parametrize("field", [None, 7, [], {}, {"tool": 7}, {"tool": ""}])
def test_what_is_no_call_is_none(field: Any):
    assert asked_call_in({"question": field}) is None
    assert asked_call_in({}) is None


def test_what_another_party_wrote_is_bounded():
    hostile = {"tool": "B" * 9_999, "arguments": "x" * 20_000, "arguments_digest": "0" * 64, "text": "t" * 99_999,
               "folder": ["/"], "arguments_bytes": -1, "call": "c" * 9_999}  # fmt: skip
    read = asked_call_in({"question": hostile})
    assert read is not None
    assert (len(read.tool), read.arguments, read.arguments_digest, read.arguments_bytes) == (256, None, "", None)
    assert (len(read.text), read.folder, len(read.call)) == (2_048, "", 200)
    earlier = asked_call_in({"question": {"tool": "Bash", "summary": "git push"}})
    assert earlier == AskedCall("Bash", "git push"), "that of an earlier version"
