"""Bundles: written and read unchanged, and refused without being quoted if they are damaged."""

from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.provision.bundle import bundle_text, read_bundle
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from support.installation import PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
def bus(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


def test_a_bundle_that_is_written_and_read_is_unchanged(bus: BusFolder, tmp_path: Path) -> None:
    bus.add("lead", ["code"])
    for name in ("main", "admin", "code", "lead"):
        made = bus.bundle(name)
        path = tmp_path / "one.bundle"
        path.write_text(bundle_text(made), encoding="utf-8")
        assert read_bundle(path) == made
        assert made.secret not in repr(made)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[bundle]", "[bundel]"),
        ("version = 1", "version = 2"),
        ('id = "code"', 'id = "agent-code"'),
        ('id = "code"', 'id = "../code"'),
        ('role = "worker"', 'role = "king"'),
        ('url = "tls://', 'url = "http://'),
        ('url = "tls://', 'url = "tls://user:password@'),
        ('secret = "SU', 'secret = "XX'),
        ('secret = "SU', 'secret = "\\nSU'),
        ('auth = "nkey"', 'auth = "none"'),
        ("[bundle]", "[bundle]\nmore = 1"),
        ("[bundle]", "[[bundle]]"),
        ("[bundle]", ""),
        ("\n", "\x00"),
    ],
)
def test_a_damaged_bundle_is_refused_with_an_error_that_does_not_quote_it(
    bus: BusFolder, tmp_path: Path, old: str, new: str
) -> None:
    text = bundle_text(bus.bundle("code"))
    assert old in text
    path = tmp_path / "one.bundle"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_bundle(path)
    assert str(path) in str(caught.value)
    assert bus.bundle("code").secret[3:20] not in str(caught.value)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"a = 1\n" * 200_000, b"bundle = 1"])
def test_a_file_that_is_not_a_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.bundle"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a bundle"):
        read_bundle(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_bundle(tmp_path / "missing")
