"""Fixtures of the tests of the whole system."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from support.installation import OwnBus, own_bus
from support.old_version import OldVersion, unpack


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> OldVersion:
    """The earlier version, unpacked once a session."""
    return unpack(tmp_path_factory.mktemp("old-version"))


@pytest.fixture
async def team(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    """A bus with each role: `alice` is a member of code, `dave` one of all agents; `lead` may give tasks to doc."""
    async with own_bus(
        tmp_path,
        may_task={"lead": ["doc"]},
        coordinators={
            "alice": ("member", ["code"]),
            "dave": ("member", None),
            "bob": ("viewer", None),
            "carol": ("operator", None),
        },
    ) as running:
        yield running
