"""Fixture of the tests of the doctor."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from support.installation import Sample, make_certificates, sample_bus


@pytest.fixture
async def sample(tmp_path: Path) -> AsyncGenerator[Sample]:
    async with sample_bus(tmp_path, make_certificates(tmp_path)) as bus:
        yield bus
