"""Answers an agent that asks whether it may use a tool: by the configuration, or by what a person says meanwhile.

Only this one use is allowed or rejected: what the agent offers to remember for later ones is never chosen.
"""

import asyncio
from collections.abc import Iterator
from typing import Final, Literal

from agentbus_worker.acp.answers import Answers
from agentbus_worker.acp.event_lines import EventLines
from agentbus_worker.acp.json_values import Json, Object, object_in, objects_in
from agentbus_worker.acp.peer import Peer, RequestId
from agentbus_worker.acp.tool_calls import (
    ToolCalls,
    arguments_of,
    asked_arguments,
    call_id,
    digest_of,
    title_of,
    tool_of,
)

_MOST_OPEN: Final = 16
"""Questions that are open at a time: an agent that asks more at once is denied."""
_REJECTS: Final = "reject_once"
_ALLOWS: Final = "allow_once"
_NOTHING_TO_ALLOW: Final = "the agent does not offer to allow this one use"
_NOT_CHOSEN: Final = {"outcome": {"outcome": "cancelled"}}


class Permissions:
    """The permission requests of one session.

    Args:
        policy: what is answered: `ask` has a person answer, who has `wait_s`.
        answers: where these answers come from; without it nothing is asked.
    """

    def __init__(
        self,
        peer: Peer,
        lines: EventLines,
        policy: Literal["deny", "allow", "ask"],
        *,
        folder: str,
        answers: Answers | None = None,
        wait_s: float = 0,
    ) -> None:
        self._peer = peer
        self._lines = lines
        self._policy = policy
        self._folder = folder
        self._answers = answers
        self._wait_s = wait_s
        self._open: set[asyncio.Task[None]] = set()
        self._asked = 0
        self._cancelled = ""
        self._comments: list[str] = []
        self.calls = ToolCalls()

    async def on_request(self, request: RequestId, params: Object) -> None:
        """Answer a request, or begin to ask a person."""
        call = object_in(params.get("toolCall"))
        known = {**self.calls.note(call), "toolCallId": call_id(call)}
        options = dict(_options(params.get("options")))
        if self._cancelled:
            await self._give(request, known, options, allowed=False, why=self._cancelled)
        elif self._policy != "ask" or self._answers is None:
            await self._give(request, known, options, allowed=self._policy == "allow", why="configuration")
        elif _ALLOWS not in options:
            await self._give(request, known, options, allowed=False, why=_NOTHING_TO_ALLOW)
        elif len(self._open) >= _MOST_OPEN:
            await self._give(request, known, options, allowed=False, why="too many questions are open")
        else:
            arguments = asked_arguments(known, call.get("content"))
            task = asyncio.create_task(self._ask(self._answers, request, known, options, arguments))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    def take_comments(self) -> str:
        """Return what a person has said of what was asked for, and forget it; empty if that is nothing.

        The protocol has no field for it in the answer to a request.
        """
        comments, self._comments = self._comments, []
        return "\n\n".join(comments)

    async def cancel(self, why: str) -> None:
        """Deny what is open, and all that comes."""
        self._cancelled = self._cancelled or why
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _ask(
        self, answers: Answers, request: RequestId, call: Object, options: dict[str, str], arguments: Json
    ) -> None:
        self._asked += 1
        name = str(self._asked)
        waiting = answers.expect(name)
        try:
            await self._lines.write(
                "question", id=name, operation=tool_of(call), arguments=arguments, digest=digest_of(arguments),
                folder=self._folder, title=title_of(call), call=call_id(call),
            )  # fmt: skip
            try:
                async with asyncio.timeout(self._wait_s):
                    (allowed, comment), why = await waiting, "answered"
                if comment:
                    said = "Allowed: {}: {}\nThe comment: {}" if allowed else "Denied: {}: {}\nThe reason: {}"
                    self._comments.append(said.format(tool_of(call), title_of(call), comment))
            except TimeoutError:
                allowed, why = False, f"nothing was answered within {self._wait_s:g} s"
        except asyncio.CancelledError:
            await self._give(request, call, options, allowed=False, why=self._cancelled, question=name)
            raise
        finally:
            answers.forget(name)
        await self._give(request, call, options, allowed=allowed, why=why, question=name)

    async def _give(
        self,
        request: RequestId,
        call: Object,
        options: dict[str, str],
        *,
        allowed: bool,
        why: str,
        question: str | None = None,
    ) -> None:
        """Answer, and tell what was answered. Where no fitting option is offered, none is chosen: that denies it."""
        option = None if self._cancelled else options.get(_ALLOWS if allowed else _REJECTS)
        if allowed and option is None:
            allowed, why = False, _NOTHING_TO_ALLOW
            option = options.get(_REJECTS)
        chosen = {"outcome": {"outcome": "selected", "optionId": option}} if option is not None else _NOT_CHOSEN
        await self._lines.write(
            "permission", tool=tool_of(call), title=title_of(call), arguments=arguments_of(call), call=call_id(call),
            allowed=allowed, option=option, why=why, question=question, withdrawn=bool(self._cancelled) or None,
        )  # fmt: skip
        await self._peer.answer(request, chosen)


def _options(offered: Json) -> Iterator[tuple[str, str]]:
    """Yield the kind and the id of each option; of several of one kind the first counts."""
    for option in reversed(list(objects_in(offered))):
        kind, name = (option.get(field) for field in ("kind", "optionId"))
        if isinstance(kind, str) and isinstance(name, str):
            yield kind, name
