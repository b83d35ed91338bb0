"""Messages of an inbox are checked against the ledger; what it does not confirm is unverified, with the reason."""

from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.errors import ArgumentError
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.operations import inbox
from agentbus_mcp.operations.inbox import CheckedMessage, newest_messages, next_messages
from support.altered_link import altered_link, lost
from support.mcp_harness import put, result_message, settle
from support.restricted import all_but, restricted_bus


async def the_message(coordinator: Coordinator) -> CheckedMessage:
    [message] = (await newest_messages(coordinator, 1)).messages
    return message


async def test_a_result_that_the_ledger_has_is_verified(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="job")
    await settle(coordinator, "job")
    found = await the_message(coordinator)
    assert (found.unverified, found.in_ledger) == (None, True)


async def test_a_result_of_an_unsettled_task_is_unverified(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="job")
    await put(coordinator, result_message("job", "forged"))
    assert (await the_message(coordinator)).unverified == "the ledger has no result of this task"


async def test_a_second_result_of_a_task_is_unverified(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="job")
    await settle(coordinator, "job")
    await put(coordinator, result_message("job", "forged"))
    assert (await the_message(coordinator)).unverified == "the ledger has another result of this task"


async def test_a_result_of_a_task_that_the_ledger_does_not_know_is_no_forgery(coordinator: Coordinator) -> None:
    await put(coordinator, result_message("job", "of a foreign publisher"))
    found = await the_message(coordinator)
    assert (found.unverified, found.in_ledger) == (None, False)


async def test_a_result_whose_ledger_entry_cannot_be_read_is_unverified(coordinator: Coordinator) -> None:
    await coordinator.bus.store(subjects.state(TaskKey("code", "job")), b"junk")
    await put(coordinator, result_message("job", "done"))
    assert "the ledger entry of job (agent code) cannot be read" in str((await the_message(coordinator)).unverified)


async def test_a_result_that_the_user_may_not_check_is_unverified(tmp_path: Path) -> None:
    permissions = all_but("$JS.API.DIRECT.GET.KV_AGENT_STATE.>", "$JS.API.STREAM.INFO.AGENT_RESULTS")
    async with restricted_bus(tmp_path, {"main": permissions}) as bus, connect(bus.url("main")) as main:
        await put(bus.admin, result_message("job", "done"))
        assert "does not allow this user" in str((await the_message(main)).unverified)
        # Nor may it ask for the end of the inbox, so that any cursor has to do.
        page = await next_messages(main, 1_000, 0.1)
        assert (page.messages, page.cursor) == ([], 1_000)


async def test_a_result_is_unverified_if_the_ledger_does_not_answer_in_time(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "_CHECK_S", 0.2)
    await put(coordinator, result_message("job", "done"))
    async with altered_link(server.url) as link, connect(link.url) as main:
        link.changes["$JS.API.DIRECT.GET.KV_AGENT_STATE"] = lost
        assert (await the_message(main)).unverified == "the bus went away before the ledger could be asked"


async def test_a_page_has_a_bounded_number_of_messages_and_the_next_one_continues_behind_it(
    coordinator: Coordinator,
) -> None:
    for number in range(inbox.INBOX_BATCH + 2):
        await put(coordinator, result_message(f"job-{number}", "done"))
    first = await next_messages(coordinator, 0, 5)
    assert len(first.messages) == inbox.INBOX_BATCH
    second = await next_messages(coordinator, first.cursor, 5)
    assert len(second.messages) == 2
    with pytest.raises(ArgumentError, match="is beyond the end of the inbox"):
        await next_messages(coordinator, second.cursor + 1, 0.1)
