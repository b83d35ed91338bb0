"""Leads the conversation with an agent: initialize, a session, its mode, the prompt; and tells all that comes of it."""

import asyncio
from typing import Final

from agentbus.version import __version__
from agentbus_worker.acp.answers import Answers
from agentbus_worker.acp.assignment import Assignment
from agentbus_worker.acp.event_lines import EventLines
from agentbus_worker.acp.json_values import Json, Object, object_in, objects_in, text_in
from agentbus_worker.acp.peer import METHOD_NOT_FOUND, Peer, Reply, RequestId
from agentbus_worker.acp.permissions import Permissions

PROTOCOL: Final = 1
_MOST_NOTES: Final = 20
"""Of lines that are no messages, and of requests that are refused: further ones are not told."""
_SHOWN_BYTES: Final = 200
_CALL_UPDATES: Final = ("tool_call", "tool_call_update")
_ENDED: Final = ("completed", "failed")
_GOES_ON: Final = ("end_turn", "cancelled")
"""How a turn has ended after which the agent takes another one; some cancel theirs when a tool is denied."""
_MOST_TURNS: Final = 16
"""Of one run: each has cost a person an answer with a comment, and an agent may ask on for ever."""
_COMMENTS: Final = (
    "The person who was asked for a permission says of it:\n\n{}\n\nGo on with the task and keep to it. Your last "
    "message is the result of the whole task: if nothing more is to do, give your answer again."
)


class Conversation:
    """One prompt, in one session.

    Args:
        folder: where the agent works.
        answers: where the answers of a person come from.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lines: EventLines,
        assignment: Assignment,
        *,
        folder: str,
        answers: Answers | None,
    ) -> None:
        self.peer = Peer(
            reader, writer,
            on_request=self._on_request, on_notification=self._on_notification, on_foreign=self._on_foreign,
        )  # fmt: skip
        self._lines = lines
        self._given = assignment
        self._folder = folder
        self._permissions = Permissions(
            self.peer, lines, assignment.permissions,
            folder=folder, answers=answers, wait_s=assignment.question_wait_s,
        )  # fmt: skip
        self._session: str | None = None
        self._replays = False
        self._prompting = self._cancelled = False
        self._notes = 0
        self.during = "start"
        self.gone = False

    async def hold(self) -> None:
        """Hold it, to its end, which is told as a line; `gone` says that the agent ended it."""
        if (about := await self._step("initialize", _initialize())) is None:
            return
        info = object_in(about.get("agentInfo"))
        await self._lines.write(
            "agent", protocol=about.get("protocolVersion"), name=info.get("name"), version=info.get("version")
        )
        if about.get("protocolVersion") != PROTOCOL:
            await self._lines.write(
                "error", during="initialize",
                message=f"the agent speaks version {about.get('protocolVersion')!r} of the Agent Client Protocol, and "
                f"agentbus speaks version {PROTOCOL}",
            )  # fmt: skip
            return
        capable = object_in(about.get("agentCapabilities"))
        if await self._open_session(capable) and await self._set_mode():
            await self._prompt()

    async def cancel(self) -> bool:
        """Ask the agent to end its turn; returns whether it has one that can end so."""
        if prompting := self._prompting:  # before its questions are closed: an agent may end its turn for one
            self._cancelled = True
            await self.peer.notify("session/cancel", {"sessionId": self._session})
        await self._permissions.cancel("the run is being cancelled")
        return prompting

    async def close(self) -> None:
        """Close the questions that are still open."""
        await self._permissions.cancel("the run has ended")

    # -- steps -------------------------------------------------------------------------------------------------------

    async def _open_session(self, capable: Object) -> bool:
        given, method = self._given, "session/new"
        params: Object = {"cwd": self._folder, "mcpServers": list(given.mcp_servers)}
        takes = object_in(capable.get("mcpCapabilities"))
        for server in given.mcp_servers:
            if (kind := server.get("type")) is not None and takes.get(kind) is not True:
                name = server.get("name")
                await self._lines.write(
                    "error", during="session", message=f"the agent takes no MCP server over {kind}, as {name!r} is"
                )
                return False
        if given.session is not None:
            params["sessionId"] = given.session
            if object_in(capable.get("sessionCapabilities")).get("resume") is not None:
                method = "session/resume"
            elif capable.get("loadSession") is True:
                method = "session/load"
            else:
                await self._lines.write(
                    "error", during="resume", message="session not found: the agent cannot go on with an earlier one"
                )
                return False
        self._replays = method == "session/load"
        opened = await self._step("resume" if given.session else "session", params, method)
        self._replays = False
        if opened is None:
            return False
        session = given.session or text_in(opened.get("sessionId"))
        if not session:
            await self._lines.write("error", during="session", message="the agent gave its session no id")
            return False
        self._session, self._opened = session, opened
        await self._lines.write(
            "session", session=session, resumed=given.session is not None, folder=self._folder, model=_model_in(opened)
        )
        return True

    async def _set_mode(self) -> bool:
        """Give the session its mode, which agents know in one of two ways."""
        mode = self._given.mode
        if not mode:
            return True
        modes = object_in(self._opened.get("modes"))
        offered = [text_in(one.get("id")) for one in objects_in(modes.get("availableModes"))]
        option = next(
            (
                one
                for one in objects_in(self._opened.get("configOptions"))
                if "mode" in (one.get("id"), one.get("category"))
            ),
            None,
        )
        if offered and mode not in offered:
            await self._lines.write(
                "error", during="mode", message=f"the agent has no mode {mode!r}; it has {', '.join(offered)[:500]}"
            )
            return False
        if not offered and option is not None:
            params = {"sessionId": self._session, "configId": option.get("id"), "value": mode}
            return await self._step("mode", params, "session/set_config_option") is not None
        return await self._step("mode", {"sessionId": self._session, "modeId": mode}, "session/set_mode") is not None

    async def _prompt(self) -> None:
        """Have the agent take its turn, and a further one for comments of answers, which could not hold them."""
        self.during, text = "prompt", self._given.prompt
        for turn in range(1, _MOST_TURNS + 1):
            self._prompting = True
            prompt = [{"type": "text", "text": text}]
            reply = await self.peer.call("session/prompt", {"sessionId": self._session, "prompt": prompt})
            self._prompting = False
            ended = await self._result_of(reply)
            if ended is None:
                return
            stop, comments = ended.get("stopReason"), self._permissions.take_comments()
            is_last = self._cancelled or not comments or stop not in _GOES_ON or turn == _MOST_TURNS
            await self._lines.write(
                "end" if is_last else "turn",
                stop=stop,
                usage=ended.get("usage"),
                meta=ended.get("_meta"),
                cancelled=self._cancelled or None,
            )
            if is_last:
                return
            text = _COMMENTS.format(comments)

    async def _step(self, during: str, params: Object, method: str | None = None) -> Object | None:
        """Send a request, for a bounded time; returns its result. Where there is none, that is told."""
        self.during = during
        try:
            async with asyncio.timeout(self._given.start_s):
                reply = await self.peer.call(method or during, params)
        except TimeoutError:
            await self._lines.write(
                "error", during=during,
                message=f"the agent did not answer {method or during} within {self._given.start_s:g} s: does its "
                "command speak the Agent Client Protocol?",
            )  # fmt: skip
            return None
        return await self._result_of(reply)

    async def _result_of(self, reply: Reply) -> Object | None:
        if reply.error is not None:
            error = reply.error
            await self._lines.write(
                "error", during=self.during, code=error.get("code"), message=str(error.get("message") or ""),
                data=error.get("data"),
            )  # fmt: skip
        self.gone = reply.result is None and reply.error is None
        return reply.result

    # -- what the agent sends by itself --------------------------------------------------------------------------------

    async def _on_request(self, request: RequestId, method: str, params: Object) -> None:
        if method == "session/request_permission":
            await self._permissions.on_request(request, params)
            return
        await self.peer.refuse(request, METHOD_NOT_FOUND, f"{method[:_SHOWN_BYTES]} is not offered")
        await self._note(f"asked for {method[:_SHOWN_BYTES]}, which is not offered")

    async def _on_notification(self, method: str, params: Object) -> None:
        update = object_in(params.get("update"))
        if method != "session/update" or not update or self._replays:
            return
        if update.get("sessionUpdate") in _CALL_UPDATES:
            self._permissions.calls.note(update)
            if update.get("status") in _ENDED:
                self._permissions.calls.forget(update)
        await self._lines.update(update)

    async def _on_foreign(self, line: bytes | None) -> None:
        if line is None:
            await self._note("printed a line that is too long to be read, and no message")
        else:
            await self._note(f"printed what is no message: {line[:_SHOWN_BYTES].decode(errors='replace').strip()}")

    async def _note(self, text: str) -> None:
        self._notes += 1
        if self._notes <= _MOST_NOTES:
            await self._lines.write("notice", text=f"the agent {text}")


def _initialize() -> Object:
    return {
        "protocolVersion": PROTOCOL,
        "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
        "clientInfo": {"name": "agentbus", "title": "agentbus", "version": __version__},
    }


def _model_in(opened: Object) -> Json:
    """Return the model of a session, where the agent tells it: in one of two ways."""
    known = object_in(opened.get("models")).get("currentModelId")
    options = (
        one for one in objects_in(opened.get("configOptions")) if "model" in (one.get("id"), one.get("category"))
    )
    return known or next((one.get("currentValue") for one in options), None)
