"""Fixtures of the tests with an earlier version."""

import pytest

from support.old_version import OldVersion, unpack


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> OldVersion:
    """The earlier version, unpacked once a session."""
    return unpack(tmp_path_factory.mktemp("old-version"))
