"""Buses on which one signs in in different ways: a token, passwords, nkeys, JWTs, client certificates."""

import base64
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agentbus.config.nkeys import UserKey, new_seed
from agentbus.config.toml_text import toml_text
from agentbus.provision.certificates import Pair, new_authority, new_server_certificate
from agentbus.provision.nats_server import NatsServer, run_server
from support.free_ports import free_port
from support.harness import eventually, worker_toml

PARTIES = ("admin", "main", "code")
TOKEN = "t0k€n:w/th@all?kinds#of%characters"
Nats = dict[str, str | Path | bool]


def password_of(party: str) -> str:
    return f"p@ss:{party}/w%rd?#&ü[1]"


# -- JWTs, as an operator of NATS makes them ---------------------------------------------------------------------

_PREFIX = {"operator": 14 << 3, "account": 0, "user": 20 << 3}


class Identity:
    """A key of an operator or an account, which signs JWTs."""

    def __init__(self, kind: str) -> None:
        self._key = Ed25519PrivateKey.generate()
        body = bytes([_PREFIX[kind]]) + self._key.public_key().public_bytes_raw()
        self.public = base64.b32encode(body + _crc16(body).to_bytes(2, "little")).rstrip(b"=").decode()

    def sign(self, subject: str, name: str, nats: dict[str, Any], *, expires: float | None = None) -> str:
        claims = {"jti": name, "iat": int(time.time()), "iss": self.public, "sub": subject, "name": name}
        if expires is not None:
            claims["exp"] = int(expires)
        head = _base64({"typ": "JWT", "alg": "ed25519-nkey"})
        unsigned = f"{head}.{_base64({**claims, 'nats': {**nats, 'version': 2}})}"
        return f"{unsigned}.{base64.urlsafe_b64encode(self._key.sign(unsigned.encode())).rstrip(b'=').decode()}"


def _crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value


def _base64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Operator:
    """An operator with one account that has JetStream."""

    def __init__(self) -> None:
        self.key, self.account, self._system = Identity("operator"), Identity("account"), Identity("account")

    def configuration(self) -> str:
        everything = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        limits = {**everything, "wildcards": True}
        account = self.key.sign(
            self.account.public, "bus", {"type": "account", "limits": {**limits, **storage}, "default_permissions": {}}
        )
        system = self.key.sign(self._system.public, "SYS", {"type": "account", "limits": limits})
        operator = self.key.sign(self.key.public, "operator", {"type": "operator"})
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\nresolver: MEMORY\n"
            f"resolver_preload: {{ {self.account.public}: {account}, {self._system.public}: {system} }}\n"
        )

    def creds(self, name: str, *, expires: float | None = None) -> str:
        seed = new_seed()
        nats = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        jwt = self.account.sign(UserKey(seed).public, name, nats, expires=expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )


# -- certificates -------------------------------------------------------------------------------------------------


def client_certificate(authority: Pair, name: str, *, days: int = 30, pass_phrase: bytes | None = None) -> Pair:
    """A client's certificate for `CN=name`, and its key."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = datetime.now(UTC) + timedelta(days=days)
    made = (
        x509.CertificateBuilder(issuer.subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - timedelta(days=60))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    hidden = serialization.BestAvailableEncryption(pass_phrase) if pass_phrase else serialization.NoEncryption()
    return Pair(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden),
    )


# -- a bus --------------------------------------------------------------------------------------------------------


@dataclass
class Bus:
    """A running server of one kind, and how each party signs in on it."""

    folder: Path
    kind: str
    authority: Pair | None = None
    operator: Operator | None = None
    server: NatsServer = field(init=False)
    nats: dict[str, Nats] = field(default_factory=dict[str, Nats])
    secrets: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    def write(self, name: str, content: str | bytes) -> Path:
        """A file for its owner alone."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
        return path

    def coordinator_toml(self, party: str = "main", *, name: str = "", **changes: Any) -> Path:
        """The configuration of a party of this bus; a change to None leaves a key out."""
        nats = {key: value for key, value in {**self.nats[party], **changes}.items() if value is not None}
        return self.write(f"{name or party}-coordinator.toml", toml_text({"nats": nats, "coordinator": {"id": "main"}}))

    def worker_toml(self, **changes: Any) -> Path:
        nats = {key: value for key, value in {**self.nats["code"], **changes}.items() if value is not None}
        return worker_toml(self.folder, str(nats.pop("url")), nats=nats)

    async def change(self, *changes: tuple[str, str]) -> None:
        """Replace pieces of the server's configuration, and have the running server read it again."""
        path = self.folder / "server.conf"
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
        before = self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
        self.server.reload()
        await eventually(
            lambda: self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration") > before,
            "the server has read its configuration again",
        )

    def at(self, port: int, party: str) -> str:
        """The URL of a party by way of another port, such as that of a proxy."""
        return str(self.nats[party]["url"]).replace(f":{self.port}", f":{port}")


def _by_token(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    bus.secrets["token"] = TOKEN
    file = bus.write("token", TOKEN + "\n")

    def nats(party: str) -> Nats:  # one has it in the URL, the others in a file
        if party == "main":
            return {"url": f"nats://{quote(TOKEN, safe='')}@127.0.0.1:{{}}"}
        return {"url": "nats://127.0.0.1:{}", "token_file": file}

    return f"authorization {{ token: {json.dumps(TOKEN, ensure_ascii=False)} }}\n", nats


def _by_password(bus: Bus, scheme: str = "nats") -> tuple[str, Callable[[str], Nats]]:
    users = [{"user": f"agent-{party}", "password": password_of(party)} for party in PARTIES]
    bus.secrets |= {party: password_of(party) for party in PARTIES}

    def nats(party: str) -> Nats:
        if party == "main":
            return {"url": f"{scheme}://agent-main:{quote(password_of(party), safe='')}@127.0.0.1:{{}}"}
        file = bus.write(f"{party}.password", password_of(party) + "\n")
        return {"url": f"{scheme}://127.0.0.1:{{}}", "user": f"agent-{party}", "password_file": file}

    return f"authorization {{ users: {json.dumps(users, ensure_ascii=False)} }}\n", nats


def _by_nkey(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    bus.secrets |= {party: new_seed() for party in PARTIES}
    users = ", ".join(f"{{ nkey: {UserKey(bus.secrets[party]).public} }}" for party in PARTIES)

    def nats(party: str) -> Nats:
        return {"url": "nats://127.0.0.1:{}", "nkey_file": bus.write(f"{party}.nk", bus.secrets[party] + "\n")}

    return f"authorization {{ users: [ {users} ] }}\n", nats


def _by_creds(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    operator = bus.operator = Operator()

    def nats(party: str) -> Nats:
        return {"url": "nats://127.0.0.1:{}", "creds_file": bus.write(f"{party}.creds", operator.creds(party))}

    return operator.configuration(), nats


def _with_tls(bus: Bus, options: str = "") -> str:
    authority = bus.authority = new_authority("Test CA")
    server = new_server_certificate(authority, ["127.0.0.1"])
    ca, cert, key = (
        bus.write("ca.pem", authority.certificate),
        bus.write("server.pem", server.certificate),
        bus.write("server-key.pem", server.key),
    )
    return f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{ca}", {options} }}\n'


def _by_own_ca(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    tls = _with_tls(bus)
    users, sign_in = _by_password(bus, "tls")
    return tls + users, lambda party: {**sign_in(party), "ca_file": bus.folder / "ca.pem"}


def _by_tls_first(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    tls = _with_tls(bus, "handshake_first: true")
    users, sign_in = _by_password(bus, "tls")
    return tls + users, lambda party: {**sign_in(party), "ca_file": bus.folder / "ca.pem", "tls_first": True}


def _certificate_for(bus: Bus, party: str) -> Nats:
    assert bus.authority is not None
    pair = client_certificate(bus.authority, f"agent-{party}")
    return {
        "ca_file": bus.folder / "ca.pem",
        "cert_file": bus.write(f"{party}.pem", pair.certificate),
        "key_file": bus.write(f"{party}-key.pem", pair.key),
    }


def _by_password_and_certificate(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    tls = _with_tls(bus, "verify: true")
    users, sign_in = _by_password(bus, "tls")
    return tls + users, lambda party: {**sign_in(party), **_certificate_for(bus, party)}


def _by_certificate(bus: Bus) -> tuple[str, Callable[[str], Nats]]:
    tls = _with_tls(bus, "verify_and_map: true")
    users = ", ".join(f'{{ user: "CN=agent-{party}" }}' for party in PARTIES)
    return (
        f"{tls}authorization {{ users: [ {users} ] }}\n",
        lambda party: {"url": "tls://127.0.0.1:{}", **_certificate_for(bus, party)},
    )


KINDS: dict[str, Callable[[Bus], tuple[str, Callable[[str], Nats]]]] = {
    "token": _by_token,
    "password": _by_password,
    "nkey": _by_nkey,
    "creds": _by_creds,
    "own CA": _by_own_ca,
    "TLS first": _by_tls_first,
    "password and certificate": _by_password_and_certificate,
    "certificate": _by_certificate,
}


@asynccontextmanager
async def signing_in(folder: Path, kind: str) -> AsyncGenerator[Bus]:
    """A running bus of a kind, with nothing in it."""
    bus = Bus(folder, kind)
    configuration, nats_of = KINDS[kind](bus)
    store = json.dumps(str(folder / "nats"))
    # A later start, or another reading, is to find the same port.
    head = f'listen: "127.0.0.1:{free_port()}"\njetstream {{ store_dir: {store} }}\nmax_payload: 8MB\n'
    path = bus.write("server.conf", head + configuration)
    async with run_server(store=folder / "nats", config=path) as bus.server:
        for party in PARTIES:
            nats = nats_of(party)
            bus.nats[party] = {**nats, "url": str(nats["url"]).format(bus.port)}
        yield bus
