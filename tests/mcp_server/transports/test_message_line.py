"""Lines that are no message: each request in them that can be seen is named, for the error that it gets."""

import json
from typing import Any

import pytest
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

from agentbus_mcp.transports.message_line import Refusal, read_message


def line(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": "ping", **members}).encode()


PING = line()
REFUSED: dict[str, tuple[bytes, int, list[Any]]] = {
    "a number of 5,000 digits": (line(params={"x": 1}).replace(b"1}", b"9" * 5_000 + b"}"), PARSE_ERROR, [7]),
    "300 levels": (line(params={}).replace(b"{}", b'{"a":' * 300 + b"1" + b"}" * 300), PARSE_ERROR, [7]),
    "cut within a string": (PING[:-3], PARSE_ERROR, [7]),
    "cut behind the id": (b'{"jsonrpc":"2.0","id":"a",', PARSE_ERROR, ["a"]),
    "cut within the id": (b'{"jsonrpc":"2.0","method":"ping","id":12', PARSE_ERROR, [None]),
    "cut within an id of text": (b'{"jsonrpc":"2.0","method":"ping","id":"ab', PARSE_ERROR, [None]),
    "cut before the id": (b'{"jsonrpc":"2.0","method":"tools/call","params":{"id":5', PARSE_ERROR, [None]),
    "the id of an argument": (b'{"method":"x","params":{"id":5,"a":"{\\"id\\":6', PARSE_ERROR, [None]),
    "two on one line": (PING + PING.replace(b"7", b"8"), PARSE_ERROR, [7, 8]),
    "something behind it": (PING + b" x", PARSE_ERROR, [7]),
    "no JSON": (b"hello", PARSE_ERROR, [None]),
    "an escape that is none in the id": (b'{"id":"a\\q","method":"ping"}', PARSE_ERROR, [None]),
    "no method": (b'{"jsonrpc":"2.0","id":7}', INVALID_REQUEST, [7]),
    "a method that is a number": (line(method=5), INVALID_REQUEST, [7]),
    "a method that is null": (line(method=None), INVALID_REQUEST, [7]),
    "JSON-RPC 1.0": (line(jsonrpc="1.0"), INVALID_REQUEST, [7]),
    "JSON-RPC of no version": (b'{"id":"a","method":"ping"}', INVALID_REQUEST, ["a"]),
    "params that are a list": (line(params=[1]), INVALID_REQUEST, [7]),
    "params that are text": (line(params="x"), INVALID_REQUEST, [7]),
    "an id with a fraction": (line(id=516.0), INVALID_REQUEST, [516.0]),
    "an id that is null": (line(id=None), INVALID_REQUEST, [None]),
    "an id that is true": (line(id=True), INVALID_REQUEST, [None]),
    "an id that is an object": (line(id={"id": 3}), INVALID_REQUEST, [None]),
    "an id that no double holds": (PING.replace(b"7", b"1e999"), INVALID_REQUEST, [None]),
    "a list of messages": (b'[%b, {"id":"b","method":"ping"}]' % PING, INVALID_REQUEST, [7, "b"]),
    "a list of a notification and a response": (b'[{"method":"x"}, {"id":1,"result":{}}]', INVALID_REQUEST, []),
    "an empty list": (b"[]", INVALID_REQUEST, [None]),
    "a list of numbers": (b"[1, 2]", INVALID_REQUEST, [None]),
    "a number": (b"5", INVALID_REQUEST, [None]),
    "an empty object": (b"{}", INVALID_REQUEST, [None]),
    "a notification with a list": (b'{"jsonrpc":"2.0","method":"x","params":[]}', INVALID_REQUEST, []),
    "a response with a list": (b'{"jsonrpc":"2.0","id":7,"result":[]}', INVALID_REQUEST, []),
    "a request that is a response, too": (line(method=5, result={}), INVALID_REQUEST, [7]),
}


@pytest.mark.parametrize(("text", "code", "ids"), REFUSED.values(), ids=REFUSED)
def test_a_line_that_is_no_message_names_the_requests_in_it(text: bytes, code: int, ids: list[Any]) -> None:
    refusal = read_message(text)
    assert isinstance(refusal, Refusal)
    answers = [json.loads(refusal.answer(request_id)) for request_id in refusal.ids]
    assert [answer["id"] for answer in answers] == ids
    assert (refusal.code, {answer["error"]["code"] for answer in answers} - {code}) == (code, set())
    assert refusal.reason


def test_a_reason_quotes_nothing_of_the_line() -> None:
    for text in (b'{"id":1,"method":"secret-word","params":[]}', b'{"secret-word'):
        refusal = read_message(text)
        assert isinstance(refusal, Refusal)
        assert "secret" not in refusal.reason


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb"caf\ud83d", "caf\ufffd"),
        (rb"\udc00\ud800 \uDBFF", "\ufffd\ufffd \ufffd"),
        (rb"\ud83d\ude00 \ud83d\ud83d\ude00", "\U0001f600 \ufffd\U0001f600"),
        (rb"\\ud83d \\\ud83d", "\\ud83d \\\ufffd"),
        (b"\xff\xe9 \xed\xa0\x80", "\ufffd\ufffd \ufffd\ufffd\ufffd"),
    ],
    ids=ascii,
)
def test_what_stands_for_no_character_is_read_as_one_that_says_so(written: bytes, read: str) -> None:
    message = read_message(b'{"jsonrpc":"2.0","id":"%b","method":"ping","params":{"%b":"%b"}}' % ((written,) * 3))
    assert isinstance(message, JSONRPCRequest)
    assert (message.id, message.params) == (read, {read: read})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"\xef\xbb\xbf" + PING, JSONRPCRequest),
        (line(id=2**53 + 1), JSONRPCRequest),
        (line(id=""), JSONRPCRequest),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', JSONRPCNotification),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', JSONRPCResponse),
    ],
)
def test_messages_are_read(text: bytes, kind: type[Any]) -> None:
    assert isinstance(read_message(text), kind)


def publication(content: str, tool: str = "publish_task") -> bytes:
    """A call with content as it is written."""
    arguments = {"to": ["code"], "task_type": "t", "payload_fmt": "json", "content": "CONTENT"}
    call = line(method="tools/call", params={"name": tool, "arguments": arguments})
    return call.replace(b'"CONTENT"', content.encode())


@pytest.mark.parametrize(
    "content", ['{"a": 1, "a": 2}', '[{"b": {"x": 1, "x": 1}}]', "[0.12345678901234567890]", "1e-999"]
)
def test_a_task_that_would_not_arrive_as_it_was_written_is_refused(content: str) -> None:
    refused = read_message(publication(content))
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.ids) == (INVALID_PARAMS, (7,))
    assert content not in refused.reason


@pytest.mark.parametrize("content", ['{"a": [1, 2.5], "b": {"a": 1}}', '"{\\"a\\": 1, \\"a\\": 2}"', "null"])
def test_other_tasks_and_other_tools_are_none_of_its_business(content: str) -> None:
    assert isinstance(read_message(publication(content)), JSONRPCRequest)
    assert isinstance(read_message(publication('{"a": 1, "a": 2}', "another_tool")), JSONRPCRequest)
