"""Error messages for clients, and sanitized text of other parties, without a bus."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from agentbus.errors import BusUnavailableError, PermissionDeniedError, TaskConflictError, TaskNotFoundError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.errors import client_message
from agentbus_mcp.sanitize import clip, cut, printable, to_json
from support.mcp_harness import NOWHERE, both_eras, error_of, in_memory


def test_errors_of_the_bus_keep_their_text_and_say_what_to_do() -> None:
    text = client_message(PermissionDeniedError("not allowed"))
    assert text == "not allowed. Tell the user, and do not try another way around it"
    assert client_message(TaskConflictError("taken; choose another id")) == "taken; choose another id"


def test_the_message_of_a_group_has_each_error_once() -> None:
    away = BusUnavailableError("the bus is away")
    group = ExceptionGroup("work", [away, ExceptionGroup("inner", [TaskNotFoundError("no task x"), away])])
    text = client_message(group)
    assert text is not None
    assert text.startswith("the bus is away; no task x. The ids stand in the answer of publish_task")
    assert text.count("call again") == 1


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("secret"),
        OSError("secret"),
        ExceptionGroup("mixed", [BusUnavailableError("away"), KeyError("secret")]),
    ],
)
def test_clients_get_no_message_of_any_other_error(error: Exception | None) -> None:
    assert client_message(error) is None


def test_a_message_is_bounded_and_on_one_line() -> None:
    text = client_message(TaskNotFoundError("no task \x1b[31m\n" + "x" * 5_000))
    assert text is not None
    assert text.isprintable()
    assert len(text) < 2_200


def test_wrong_arguments_are_named_without_their_values() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"newest": "secret"})
    text = client_message(caught.value)
    assert text == "newest: should be a valid integer, unable to parse string as an integer"


@both_eras
async def test_the_text_of_an_unexpected_exception_reaches_no_client(era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: BusLink) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(BusLink, "coordinator", broken)
    async with in_memory(NOWHERE, era) as client:
        text = error_of(await client.call_tool("get_results", {}))
        unknown = error_of(await client.call_tool("no_such_tool", {"a": 1}))
    assert text == "Error executing tool get_results"
    assert unknown.startswith("Unknown tool: no_such_tool; there are publish_task, watch_results,")


def test_text_is_cut_between_characters() -> None:
    assert cut("aäb", 1) == "a"
    assert cut("aäb", 2) == "a"
    assert cut("aäb", 3) == "aä"
    assert cut("aäb", 100) == "aäb"
    assert clip("abcdef", 4) == "abc…"
    assert clip("abcd", 4) == "abcd"


def test_json_has_no_character_that_is_not_printable() -> None:
    value = {"text": "ä 漢 \x1b\x7f\x9b\u202e\u200b\ufeff\u2028\U000e0041\n"}
    line = to_json(value)
    assert line.isprintable()
    assert "ä 漢" in line
    assert json.loads(line) == value
    assert printable("\U000e0041") == "\\udb40\\udc41"
