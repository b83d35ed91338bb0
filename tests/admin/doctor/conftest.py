"""Fixtures of the tests of the doctor."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink, altered_link
from support.installation import Sample, make_certificates, sample_bus


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncGenerator[Sample]:
    async with sample_bus(tmp_path, make_certificates(tmp_path)) as bus:
        yield bus


@pytest.fixture
async def link(server: NatsServer, coordinator: Coordinator) -> AsyncGenerator[AlteredLink]:
    """A link to a bus that is set up."""
    async with altered_link(server.url) as opened:
        yield opened
