"""A bus with users in one account, who may do only what a test grants them."""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import eventually

READ_LEDGER = (
    "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.*.$KV.AGENT_STATE.>",
    "$JS.API.CONSUMER.MSG.NEXT.KV_AGENT_STATE.*",
    "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.>",
)


def only(publish: Iterable[str], agent: str = "main") -> dict[str, Any]:
    """Permissions to publish to the subjects given, and to receive answers."""
    return {"publish": list(publish), "subscribe": f"_INBOX_{agent}.>"}


def all_but(*subjects: str) -> dict[str, Any]:
    """Permissions for everything except publishing to some subjects."""
    return {"publish": {"allow": ">", "deny": list(subjects)}, "subscribe": ">"}


@dataclass(frozen=True)
class RestrictedBus:
    """A running server that is set up, and a coordinator with all permissions."""

    server: NatsServer
    admin: Coordinator
    config: Path
    store: Path

    def url(self, user: str) -> str:
        return url_of(self.server, user)

    async def permit(self, permissions: Mapping[str, Mapping[str, Any]]) -> None:
        """Give the users other permissions while the server runs, and wait until they hold."""

        def reloads() -> int:
            return self.server.log.read_bytes().count(b"Reloaded server configuration")

        before = reloads()
        self.config.write_text(_configuration(self.store, permissions), encoding="utf-8")
        self.server.reload()
        await eventually(lambda: reloads() > before, "the server has read its configuration")


def url_of(server: NatsServer, user: str) -> str:
    return server.url.replace("nats://", f"nats://{user}:p@")


@asynccontextmanager
async def restricted_bus(
    folder: Path, permissions: Mapping[str, Mapping[str, Any]], *, agents: Sequence[str] = (), log: Path | None = None
) -> AsyncGenerator[RestrictedBus]:
    """Run a bus for the users in `permissions`, each with those of nats-server, and for `admin`, who may do all."""
    store, config = folder / "restricted", folder / "restricted.conf"
    config.write_text(_configuration(store, permissions), encoding="utf-8")
    async with run_server(store=store, config=config, log=log) as server, connect(url_of(server, "admin")) as admin:
        await set_up(admin.bus, agents)
        yield RestrictedBus(server, admin, config, store)


def _configuration(store: Path, permissions: Mapping[str, Mapping[str, Any]]) -> str:
    users: list[dict[str, Any]] = [{"user": "admin", "password": "p"}]
    users += [{"user": name, "password": "p", "permissions": granted} for name, granted in permissions.items()]
    return (
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(store))} }}\n"
        f"authorization {{ users: {json.dumps(users)} }}\n"
    )
