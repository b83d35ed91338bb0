"""The log of the MCP server on standard error: quoted text cannot start a new line."""

import json

import pytest

from support.harness import run_python

SAY = """
import json, logging, sys
from agentbus_mcp.logs import log_to_stderr
log_to_stderr()
logging.getLogger("agentbus.mcp").info("%s", json.loads(sys.argv[1]))
logging.getLogger("mcp.server").info("left out")
logging.getLogger("mcp.server").warning("a warning")
"""
FORGED = "agentbus-mcp: connected to nats-server 9.9.9"


RAISE = """
import json, logging, sys
from agentbus_mcp.logs import log_to_stderr
log_to_stderr()
try:
    raise ValueError(json.loads(sys.argv[1]))
except ValueError:
    logging.getLogger("agentbus.mcp").exception("failed")
"""


async def test_a_traceback_quotes_nothing_that_acts_on_a_terminal() -> None:
    ran = await run_python("-c", RAISE, json.dumps("x\x1b]52;c;eA==\x07\u202e\x9b2J"))
    assert ran.err.splitlines()[-1] == r"ValueError: x\u001b]52;c;eA==\u0007\u202e\u009b2J"


@pytest.mark.parametrize(
    "text", [f"x\n{FORGED}", f"x\r{FORGED}", f"x\u2028{FORGED}", "x\x1b[2K", "x\u202e\x00"], ids=ascii
)
async def test_quoted_text_cannot_forge_a_line(text: str) -> None:
    ran = await run_python("-c", SAY, json.dumps(text))
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [f"agentbus-mcp: {json.dumps(text)[1:-1]}", "agentbus-mcp: a warning"]
