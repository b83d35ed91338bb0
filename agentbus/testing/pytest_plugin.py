"""Fixtures for tests of programs that use agentbus: a real bus, and agents that answer as the test says.

Name the plugin where the fixtures are wanted, in the `conftest.py` at the top of your tests:

    pytest_plugins = ["agentbus.testing.pytest_plugin"]

It is no entry point that pytest loads by itself. Such a plugin is imported in every test run of every environment that
has agentbus installed, and its fixtures would be in the way of projects that only use the commands.

The fixtures are synchronous and run the bus in a thread of their own. So they work in plain tests, and beside
pytest-asyncio and the pytest plugin of anyio alike.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Protocol

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentbus.config.loading import URL_VARIABLE
from agentbus.testing.fake_agent import FakeAgent, fake_agent
from agentbus.testing.temporary_bus import TemporaryBus, temporary_bus


class StartFakeAgent(Protocol):
    """Starts a fake agent, which runs until the test ends."""

    def __call__(self, agent: str = "code", *, concurrency: int = 1) -> FakeAgent:
        """Return the agent once its worker takes tasks; see `agentbus.testing.fake_agent.fake_agent`."""
        ...


@pytest.fixture
def agentbus_portal() -> Iterator[BlockingPortal]:
    """The event loop, in a thread of its own, that the other fixtures run in."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def agentbus_bus(agentbus_portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch) -> Iterator[TemporaryBus]:
    """An empty bus of the test's own. `agentbus.connect()` and the commands find it: AGENTBUS_NATS_URL is set."""
    with agentbus_portal.wrap_async_context_manager(temporary_bus()) as bus:
        monkeypatch.setenv(URL_VARIABLE, bus.url)
        yield bus


@pytest.fixture
def agentbus_fake_agent(agentbus_portal: BlockingPortal, agentbus_bus: TemporaryBus) -> Iterator[StartFakeAgent]:
    """A function that starts fake agents on the bus of the test; they run until the test ends."""
    with ExitStack() as agents:

        def start(agent: str = "code", *, concurrency: int = 1) -> FakeAgent:
            running = fake_agent(agentbus_bus, agent, concurrency=concurrency)
            return agents.enter_context(agentbus_portal.wrap_async_context_manager(running))

        yield start
