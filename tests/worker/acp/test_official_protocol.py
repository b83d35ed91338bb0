"""What the driver sends and understands is what the official package of the protocol does: its models, its agent."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from agentbus.config.sections.mcp_server import McpServer
from agentbus_worker.acp.conversation import PROTOCOL
from support.acp_driver import driven

OFFICIAL_AGENT: Final = """
import asyncio
from acp import Agent, InitializeResponse, NewSessionResponse, PromptResponse, run_agent, start_tool_call, text_block
from acp import update_agent_message, update_tool_call
from acp.schema import Implementation, PermissionOption, ToolCallUpdate

class Official(Agent):
    def on_connect(self, conn):
        self.conn = conn

    async def initialize(self, protocol_version, **more):
        return InitializeResponse(protocol_version=1, agent_info=Implementation(name="official", version="1"))

    async def new_session(self, cwd, **more):
        return NewSessionResponse(session_id="s1")

    async def prompt(self, prompt, session_id, **more):
        begun = start_tool_call("c1", "ls", kind="execute", raw_input={"command": "ls"})
        await self.conn.session_update(session_id, begun)
        options = [PermissionOption(option_id="y", name="Yes", kind="allow_once"),
                   PermissionOption(option_id="n", name="No", kind="reject_once")]
        call = ToolCallUpdate(tool_call_id="c1")
        answer = await self.conn.request_permission(options=options, session_id=session_id, tool_call=call)
        await self.conn.session_update(session_id, update_tool_call("c1", status="completed"))
        chosen = answer.outcome.option_id
        await self.conn.session_update(session_id, update_agent_message(text_block(f"{prompt[0].text} {chosen}")))
        return PromptResponse(stop_reason="end_turn")

asyncio.run(run_agent(Official()))
"""


@pytest.mark.parametrize("does", [(), ("resumes",)])
async def test_what_the_driver_sends_is_what_the_schema_has(tmp_path: Path, does: tuple[str, ...]) -> None:
    # Each process of the tests imports this module, and the models of the package take a second.
    from acp import schema  # noqa: PLC0415
    from acp.meta import PROTOCOL_VERSION  # noqa: PLC0415

    requests = {
        "initialize": schema.InitializeRequest,
        "session/new": schema.NewSessionRequest,
        "session/load": schema.LoadSessionRequest,
        "session/resume": schema.ResumeSessionRequest,
        "session/set_mode": schema.SetSessionModeRequest,
        "session/prompt": schema.PromptRequest,
    }
    assert PROTOCOL == PROTOCOL_VERSION
    servers = [
        McpServer(command="/bin/docs", args=("-v",), env={"KEY": "x"}).for_session("docs"),
        McpServer(url="https://example.org/mcp", headers={"Authorization": "Bearer x"}).for_session("web"),
    ]
    log = tmp_path / "log"
    words = (*does, "ask", "say=Done.", "--log", str(log))
    for session in (None, "s1"):
        await driven(*words, folder=tmp_path, mode="default", mcp_servers=servers, session=session, permissions="allow")
    seen: set[str] = set()
    for line in log.read_text(encoding="utf-8").splitlines():
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            seen.add(message["method"])
            model = requests[message["method"]]
            known = model.model_validate(message["params"])
            assert known.model_dump(by_alias=True, exclude_unset=True, mode="json") == message["params"]
        else:
            schema.RequestPermissionResponse.model_validate(message["result"])
    assert seen == requests.keys() - {"session/load" if does else "session/resume"}


@pytest.mark.parametrize(("permissions", "chosen"), [("allow", "y"), ("deny", "n")])
async def test_an_agent_of_the_official_package_does_its_task(tmp_path: Path, permissions: str, chosen: str) -> None:
    judgement, _ = await driven(
        folder=tmp_path, command=[sys.executable, "-c", OFFICIAL_AGENT], prompt="You chose", permissions=permissions
    )
    assert (judgement.status, judgement.text, judgement.run.kind) == ("completed", f"You chose {chosen}", "official")
    assert bool(judgement.run.denied) == (permissions == "deny")
