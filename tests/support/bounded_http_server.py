"""The real MCP server over HTTP with bounds that no option sets: `bounded_http_server.py SETTINGS`, as JSON.

SETTINGS are those of `HttpSettings`, and `nats_url` and `connections`, which is how many there may be in all.
"""

import json
import sys

from agentbus.config.addresses import Address
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus_mcp.logs import log_to_stderr
from agentbus_mcp.transports import http_server, streamable_http
from agentbus_mcp.transports.http_settings import HttpSettings


def main(nats_url: str, connections: int, **settings: object) -> None:
    setattr(http_server, "MAX_CONNECTIONS", connections)  # noqa: B010  # the product has no setting
    log_to_stderr()
    bus = connection_settings(NatsSection(url=nats_url), agent="main", name="test", reconnect_wait_s=1)
    endpoint = HttpSettings(Address("127.0.0.1", 0), **settings)  # pyright: ignore[reportArgumentType]
    with endpoint.listen() as listener:
        streamable_http.serve(bus, "main", endpoint, listener)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
