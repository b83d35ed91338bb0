"""`python -m conformance.application NATS_URL`: our server class with what the suite uses, served like the product."""

import logging
import sys

from agentbus.config import NatsSection, connection_settings
from agentbus_mcp import streamable_http
from agentbus_mcp.endpoint import Address, Endpoint
from agentbus_mcp.link import Link
from agentbus_mcp.server import Server
from conformance.contents import add_contents, schema_tool
from conformance.questions import add_questions
from task_tools import SCRIPTED, add_task_tools


async def fixture(link: Link) -> Server:
    server = Server(link, "agentbus-conformance", tasks=SCRIPTED, tools=[schema_tool()])
    add_contents(server)
    add_questions(server)
    add_task_tools(server)
    return server


def main(nats_url: str) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    settings = connection_settings(NatsSection(url=nats_url), agent="main", name="conformance")
    endpoint = Endpoint(Address("127.0.0.1", 0))
    with endpoint.listen() as listener:
        streamable_http.serve(settings, "main", endpoint, listener, load=fixture)


if __name__ == "__main__":
    main(*sys.argv[1:])
