"""The table of open requests: each has one end, its answer or its error, whichever comes first."""

import asyncio

import pytest

from agentbus.bus.requests import Requests
from agentbus.bus.retry_until import deadline_after
from agentbus.errors import BusError, BusUnavailableError
from support.harness import BOUND_S


class Answer:
    """What the table looks at in a message."""

    def __init__(self, token: str) -> None:
        self.subject = f"_INBOX.x.{token}"


def table() -> Requests:
    return Requests(lambda timeout_s: BusUnavailableError(f"nothing within {timeout_s:g} s"))


def answer(requests: Requests, token: str) -> Answer:
    message = Answer(token)
    requests.take_answer(message)  # pyright: ignore[reportArgumentType]
    return message


async def test_an_answer_that_has_come_is_not_taken_back_when_the_connection_breaks_right_behind_it():
    requests = table()
    answered, open_ = [requests.add("ask", 60, deadline_after(60)) for _ in range(2)]
    message = answer(requests, answered.token)
    requests.fail(BusUnavailableError("broke"))
    assert await answered.answer is message
    with pytest.raises(BusUnavailableError, match="broke"):
        await open_.answer
    requests.stop_timer()


async def test_a_second_answer_and_an_answer_to_a_closed_request_are_dropped():
    requests = table()
    request = requests.add("ask", 60, deadline_after(60))
    first = answer(requests, request.token)
    answer(requests, request.token)
    assert await request.answer is first
    requests.remove(request)
    answer(requests, request.token)
    answer(requests, "of-another-party")
    requests.stop_timer()


async def test_a_refused_subject_fails_only_the_requests_to_it_in_upper_or_lower_case():
    requests = table()
    refused, other = [requests.add(subject, 60, deadline_after(60)) for subject in ("$JS.API.INFO", "agent.x")]
    requests.fail(BusError("not allowed"), subject="$js.api.info")
    with pytest.raises(BusError, match="not allowed"):
        await refused.answer
    assert not other.answer.done()
    requests.stop_timer()


async def test_each_request_expires_at_its_own_time_though_one_timer_serves_all():
    requests = table()
    late = requests.add("ask", 0.3, deadline_after(0.3))
    soon = requests.add("ask", 0.1, deadline_after(0.1))
    never = requests.add("ask", 600, deadline_after(600))
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(BusUnavailableError, match=r"nothing within 0\.1 s"):
            await soon.answer
        assert not late.answer.done()
        with pytest.raises(BusUnavailableError, match=r"nothing within 0\.3 s"):
            await late.answer
    assert not never.answer.done()
    requests.stop_timer()
