"""Makes the credentials of the parties of a bus folder, and the configuration of its administrator that names two."""

import secrets
from pathlib import Path
from typing import Final

from agentbus.config import nkeys
from agentbus.config.private_files import write_private
from agentbus.config.toml_text import toml_text
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bundle import Auth, secret_name, sign_in, tasks_secret_name
from agentbus.provision.bus_folder.manifest import Manifest, PartyEntry

# About 0.15 s a hash: the server pays it at each sign-in, an attacker at each guess.
_BCRYPT_ROUNDS: Final = 11
_PASSWORD_BYTES: Final = 32


def administrator_file(folder: Path) -> Path:
    """Return the path of the administrator's configuration."""
    return folder / "admin.toml"


def secret_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of a party's credential."""
    return folder / "credentials" / secret_name(manifest.bus.auth, name)


def tasks_secret_file(folder: Path, manifest: Manifest) -> Path | None:
    """Return the path of the administrator's credential for the account of the queue; None where that is not apart."""
    name = tasks_secret_name(manifest.bus.auth, ADMINISTRATOR)
    return folder / "credentials" / name if manifest.queue_apart else None


def with_new_credential(folder: Path, manifest: Manifest, name: str, entry: PartyEntry) -> Manifest:
    """Write a new credential of a party; returns the manifest with its public part, which is yet to be written.

    Args:
        entry: what the party may do; the public part of its credential is replaced.
    """
    auth = manifest.bus.auth
    secret, public = _new_secret(auth)
    write_private(secret_file(folder, manifest, name), f"{secret}\n", replace=True)
    entry = entry.model_copy(update={_KEYS[auth]: public})
    manifest = manifest.model_copy(update={"party": {**manifest.party, name: entry}})
    return with_tasks_credential(folder, manifest) if name == ADMINISTRATOR else manifest


def with_tasks_credential(folder: Path, manifest: Manifest) -> Manifest:
    """Write a new credential of the administrator for the account of the queue, where that is apart."""
    second = tasks_secret_file(folder, manifest)
    if second is None:
        return manifest
    auth, entry = manifest.bus.auth, manifest.party[ADMINISTRATOR]
    secret, public = _new_secret(auth)
    write_private(second, f"{secret}\n", replace=True)
    entry = entry.model_copy(update={f"tasks_{_KEYS[auth]}": public})
    return manifest.model_copy(update={"party": {**manifest.party, ADMINISTRATOR: entry}})


_KEYS: Final[dict[Auth, str]] = {"nkey": "nkey", "password": "password_hash"}


def _new_secret(auth: Auth) -> tuple[str, str]:
    """Return a new secret, and its public part: an nkey, or the hash of a password."""
    if auth == "nkey":
        seed = nkeys.new_seed()
        return seed, nkeys.UserKey(seed).public
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    return password, _hashed(password)


def _hashed(password: str) -> str:
    try:
        import bcrypt  # noqa: PLC0415
    except ImportError:
        raise ConfigError('passwords need bcrypt: pip install "agentbus-mcp[password]"; nkeys need nothing') from None
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()


def write_administrator_toml(folder: Path, manifest: Manifest) -> None:
    """Write the configuration of the administrator's commands."""
    secret = secret_file(folder, manifest, ADMINISTRATOR)
    text = "# For `agentbus setup` and `agentbus dead`.\n" + toml_text(
        {
            "nats": {
                "url": manifest.bus.url,
                **sign_in(manifest.bus.auth, ADMINISTRATOR, secret, tasks_secret_file(folder, manifest)),
                "ca_file": folder / manifest.bus.ca if manifest.bus.ca else None,
                "inbox_prefix": subjects.inbox_prefix(ADMINISTRATOR),
            }
        }
    )
    write_private(administrator_file(folder), text, replace=True)
