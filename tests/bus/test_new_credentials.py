"""Credentials that are replaced while they are being refused: the new ones are used, unless there are none to read."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import AuthenticationError
from agentbus.provision.nats_server import run_server
from support.altered_link import AlteredLink, altered_link

pytestmark = pytest.mark.posix("not tried on Windows")


@dataclass(frozen=True)
class Guarded:
    """A server that takes a token, a link to it, and the file that has a token which it does not take any more."""

    link: AlteredLink
    token: Path

    def settings(self) -> ConnectionSettings:
        section = NatsSection(url=self.link.url, token_file=self.token)
        return connection_settings(section, agent="main", name="test", reconnect_wait_s=0.05)

    def write(self, token: str) -> None:
        self.token.write_text(token, encoding="utf-8")
        self.token.chmod(0o600)


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[Guarded]:
    store = tmp_path / "s"
    config = tmp_path / "server.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: {json.dumps(str(store))} }}\n'
        'authorization { token: "the-new-one" }\n',
        encoding="utf-8",
    )
    async with run_server(store=store, config=config) as server, altered_link(server.url) as link:
        found = Guarded(link, tmp_path / "token")
        found.write("the-old-one")
        yield found


async def test_new_credentials_that_arrive_while_the_old_ones_are_refused_are_used(guarded: Guarded):
    states: list[str] = []
    config = guarded.settings()
    dials = iter(["the-old-one", "the-new-one", "the-new-one"])
    guarded.link.on_connect = lambda: guarded.write(next(dials))  # the second dial is refused, too: that is believed
    async with connect(config, retry_on_failed_connect=True, on_state=states.append) as bus:
        assert (await bus.api("INFO"))["type"].endswith("account_info_response")
    assert states[0] == "the credentials were refused, and there are new ones by now; signing in with those"
    assert states[1].startswith("connected to nats-server")
    assert len(states) == 2


async def test_a_missing_file_while_credentials_are_refused_is_a_refusal(guarded: Guarded):
    config = guarded.settings()
    guarded.link.on_connect = lambda: guarded.token.unlink(missing_ok=True)
    with pytest.raises(AuthenticationError, match=r"refused the credentials \(the token in .*\): it may have been"):
        async with connect(config, retry_on_failed_connect=True):
            pass


async def test_credentials_that_are_refused_once_are_shown_once_more(guarded: Guarded):
    """A server that reads its configuration again refuses valid ones for a moment."""
    states: list[str] = []
    config = guarded.settings()
    dials = iter(["the-new-one", "the-new-one"])
    guarded.link.on_connect = lambda: guarded.write(next(dials))
    async with connect(config, on_state=states.append) as bus:
        assert (await bus.api("INFO"))["type"].endswith("account_info_response")
    assert [state.partition(" ")[0] for state in states] == ["connected"]
    assert list(dials) == []


async def test_a_missing_file_at_the_dial_leaves_the_credentials_that_were_read_before(guarded: Guarded):
    guarded.write("the-new-one")
    config = guarded.settings()
    guarded.token.unlink()
    async with connect(config) as bus:
        assert (await bus.api("INFO"))["type"].endswith("account_info_response")
