"""NKeys: how NATS writes Ed25519 keys, and a key pair that answers a server's challenge.

The server knows the public key only; the seed stays with its holder, and no connection carries it.
"""

import base64
import binascii
import json
import secrets
from datetime import UTC, datetime
from typing import Any, Final

from agentbus.errors import ConfigError

_SEED: Final = 18 << 3  # "S"
_USER: Final = 20 << 3  # "U"
_RAW_BYTES: Final = 32
_JWT_BLOCK: Final = "NATS USER JWT"
_SEED_BLOCK: Final = "USER NKEY SEED"


class UserKey:
    """The key pair of one user of the bus. `repr()` shows the public half."""

    def __init__(self, seed: str) -> None:
        """Read a seed (`SU...`).

        Raises:
            ConfigError: it is not the seed of a user; the error does not quote it.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        self._key = Ed25519PrivateKey.from_private_bytes(_raw_seed(seed))
        self.public = _encode(bytes([_USER]) + self._key.public_key().public_bytes_raw())

    def sign(self, challenge: bytes) -> bytes:
        """The signature that proves to a server that this is the key's holder."""
        return self._key.sign(challenge)

    def __repr__(self) -> str:
        return f"UserKey({self.public})"


def new_seed() -> str:
    """The seed of a new user key: a secret of 256 random bits."""
    prefix = bytes([_SEED | (_USER >> 5), (_USER & 31) << 3])
    return _encode(prefix + secrets.token_bytes(_RAW_BYTES))


def check_seed(seed: str) -> None:
    """Raise ConfigError unless `seed` is the seed of a user."""
    _raw_seed(seed)


def read_creds(text: str) -> tuple[str, str]:
    """The JWT and the seed in the text of a `.creds` file.

    Raises:
        ConfigError: one of the two is not there, or the seed is not that of a user.
    """
    jwt, seed = _block(text, _JWT_BLOCK), _block(text, _SEED_BLOCK)
    check_seed(seed)
    return jwt, seed


def expiry(jwt: str) -> datetime | None:
    """When a JWT ends, as it says itself; None for one without an end, or that cannot be read."""
    body = jwt.split(".")[1:2]
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(f"{body[0]}===")) if body else None
        return datetime.fromtimestamp(claims["exp"], UTC) if claims["exp"] else None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError, OSError):
        return None


def _block(text: str, name: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines[:-1]):
        if line.strip("-") == f"BEGIN {name}" and lines[number + 1]:
            return lines[number + 1]
    raise ConfigError(f"there is no block BEGIN {name} in it; a .creds file has one, as `nsc` writes it")


def _encode(data: bytes) -> str:
    check = binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(data + check).rstrip(b"=").decode()


def _raw_seed(seed: str) -> bytes:
    try:
        data = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        data = b""
    whole = len(data) == 2 + _RAW_BYTES + 2 and binascii.crc_hqx(data[:-2], 0).to_bytes(2, "little") == data[-2:]
    if not whole or data[0] & 0xF8 != _SEED or (data[0] & 7) << 5 | data[1] >> 3 != _USER:
        raise ConfigError("it is not the seed of a user's nkey, which begins with SU")
    return data[2:-2]
