"""A certificate that an operator brings: what clients would refuse is refused when the bus is made."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agentbus.errors import ConfigError
from agentbus.provision import certificates
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.certificates import new_authority, new_server_certificate
from agentbus.provision.given_certificate import check_certificate
from support.installation import PLAN


class Given:
    """A certificate for some hosts, and its key, in files of the test."""

    def __init__(self, folder: Path, *hosts: str, name: str = "server") -> None:
        pair = new_server_certificate(new_authority("Test CA"), hosts)
        self.cert, self.key = folder / f"{name}.pem", folder / f"{name}-key.pem"
        self.cert.write_bytes(pair.certificate)
        self.key.write_bytes(pair.key)


@pytest.mark.parametrize("host", ["bus.example.com", "a.wild.example.com", "10.0.0.5", "::1"])
def test_a_certificate_for_the_host_is_taken(tmp_path: Path, host: str):
    given = Given(tmp_path, "bus.example.com", "*.wild.example.com", "10.0.0.5", "0:0::1")
    check_certificate(given.cert, given.key, host)


@pytest.mark.parametrize("host", ["other.example.com", "wild.example.com", "a.b.wild.example.com", "127.0.0.1"])
def test_one_for_another_host_is_refused_with_the_names_that_it_has(tmp_path: Path, host: str):
    given = Given(tmp_path, "bus.example.com", "*.wild.example.com")
    with pytest.raises(ConfigError, match=rf"would refuse .* for {host}; it is for bus\.example\.com, \*\.wild"):
        check_certificate(given.cert, given.key, host)


def test_a_key_that_is_not_that_of_the_certificate_is_refused(tmp_path: Path):
    one, other = Given(tmp_path, "bus", name="one"), Given(tmp_path, "bus", name="other")
    with pytest.raises(ConfigError, match=r"other-key\.pem does not belong to .*one\.pem"):
        check_certificate(one.cert, other.key, "bus")


def test_files_that_are_swapped_garbled_or_encrypted_are_named(tmp_path: Path):
    given = Given(tmp_path, "bus")
    with pytest.raises(ConfigError, match="--cert and --key swapped"):
        check_certificate(given.key, given.cert, "bus")
    (tmp_path / "garbage").write_bytes(b"\xff garbage")
    with pytest.raises(ConfigError, match="garbage holds no certificate in PEM form"):
        check_certificate(tmp_path / "garbage", given.key, "bus")
    with pytest.raises(ConfigError, match="garbage holds no private key in PEM form"):
        check_certificate(given.cert, tmp_path / "garbage", "bus")
    key = load_pem_private_key(given.key.read_bytes(), None)
    secret = BestAvailableEncryption(b"pass")
    given.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match="is encrypted, and nats-server asks for no pass phrase"):
        check_certificate(given.cert, given.key, "bus")


@pytest.mark.parametrize(("backdated_days", "why"), [(2, "has expired on"), (-2, "is valid from")])
def test_a_certificate_out_of_its_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backdated_days: int, why: str
):
    monkeypatch.setattr(certificates, "_BACKDATED", timedelta(days=backdated_days))
    monkeypatch.setattr(certificates, "SERVER_DAYS", 1)
    given = Given(tmp_path, "bus")
    with pytest.raises(ConfigError, match=why):
        check_certificate(given.cert, given.key, "bus")


def test_no_bus_is_made_with_one_that_is_refused(tmp_path: Path):
    given = Given(tmp_path, "bus.example.com")
    plan = replace(PLAN, hosts=("other.example.com",), certificate=given.cert, key=given.key)
    with pytest.raises(ConfigError, match=r"for other\.example\.com"):
        create(tmp_path / "bus", plan)
    made = create(tmp_path / "bus", replace(plan, hosts=("bus.example.com", "other.example.com")))
    assert made.url.startswith("tls://bus.example.com:")
