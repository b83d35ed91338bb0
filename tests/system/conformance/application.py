"""`python -m system.conformance.application NATS_URL`: our server class with what the suite uses, as the product."""

import logging
import sys

from agentbus.config.addresses import Address
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.server import Server
from agentbus_mcp.transports import streamable_http
from agentbus_mcp.transports.http_settings import HttpSettings
from support.task_tools import SCRIPTED, add_task_tools
from system.conformance.contents import add_contents, schema_tool
from system.conformance.questions import add_questions


async def fixture(bus_link: BusLink) -> Server:
    server = Server(bus_link, "agentbus-conformance", tasks=SCRIPTED, tools=[schema_tool()])
    add_contents(server)
    add_questions(server)
    add_task_tools(server)
    return server


def main(nats_url: str) -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    settings = connection_settings(NatsSection(url=nats_url), agent="main", name="conformance")
    endpoint = HttpSettings(Address("127.0.0.1", 0))
    with endpoint.listen() as listener:
        streamable_http.serve(settings, "main", endpoint, listener, load=fixture)


if __name__ == "__main__":
    main(*sys.argv[1:])
