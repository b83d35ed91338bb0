"""Fixtures of the transports."""

from pathlib import Path

import pytest

from support.raw_http import TOKEN


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with `TOKEN`, for its owner alone."""
    path = tmp_path / "mcp.token"
    path.write_text(TOKEN + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path
