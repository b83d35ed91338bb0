"""Reads and writes `bus.toml`, the list of a bus's parties, and generates `accounts.conf` of each server from it."""

import secrets
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from agentbus.config import nkeys
from agentbus.config.private_files import write_private
from agentbus.config.schema import AgentId, Section
from agentbus.config.storage_sizes import storage_size, times
from agentbus.config.toml_text import toml_text
from agentbus.errors import ConfigError
from agentbus.protocol import permissions, subjects
from agentbus.protocol.permissions import ADMINISTRATOR, RESERVED, Party
from agentbus.protocol.roles import Role
from agentbus.provision.bundle import Auth
from agentbus.provision.bus_folder.accounts_conf import MAX_CONNECTIONS, Login, accounts_block
from agentbus.provision.bus_folder.server_folder import ServerFolder, read_member, server_folders

# About 0.15 s a hash: the server pays it at each sign-in, an attacker at each guess.
_BCRYPT_ROUNDS: Final = 11
_PASSWORD_BYTES: Final = 32


class BusEntry(Section):
    """The section `[bus]`: the settings that all parties share."""

    version: Literal[1] = 1
    url: str
    members: tuple[str, ...] = ()
    auth: Auth
    ca: Path | None = None
    max_memory: Annotated[str, AfterValidator(storage_size)]
    max_file: Annotated[str, AfterValidator(storage_size)]
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = MAX_CONNECTIONS


class PartyEntry(Section):
    """A section `[party.ID]`: one party, by the public part of its credential.

    Attributes:
        may_task: of an agent, the agents that its workers may give tasks to.
        role: of a named coordinator.
        agents: of a member, the agents that it may give tasks to; None for all, also those that are added later.
    """

    nkey: str | None = None
    password_hash: Annotated[str | None, Field(repr=False)] = None
    may_task: tuple[AgentId, ...] = ()
    role: Role | None = None
    agents: tuple[AgentId, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "PartyEntry":
        if self.may_task and self.role is not None:
            raise ValueError("may_task is for agents")
        if self.agents is not None and self.role != "member":
            raise ValueError("agents is for members")
        return self

    def without(self, agent: str) -> "PartyEntry":
        """Return the entry without the right to give tasks to an agent."""
        left = {
            "may_task": tuple(other for other in self.may_task if other != agent),
            "agents": None if self.agents is None else tuple(other for other in self.agents if other != agent),
        }
        return self.model_copy(update=left)


class Manifest(Section):
    """The content of `bus.toml`."""

    bus: BusEntry
    party: dict[AgentId, PartyEntry]

    @model_validator(mode="after")
    def _check(self) -> "Manifest":
        if any(self.party[name].role is not None for name in RESERVED & self.party.keys()):
            raise ValueError("the parties of every bus have no other role")
        return self

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that have credentials."""
        return tuple(name for name in sorted(self.party) if name not in RESERVED and self.party[name].role is None)

    @property
    def coordinators(self) -> tuple[str, ...]:
        """The coordinators that have credentials, `main` first."""
        return (subjects.COORDINATOR, *(name for name in sorted(self.party) if self.party[name].role is not None))


def manifest_file(folder: Path) -> Path:
    """Return the path of the manifest of a bus."""
    return folder / "bus.toml"


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the bus in a folder.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = manifest_file(folder)
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"there is no bus in {folder}; make one with: agentbus init {folder}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValidationError, ValueError):
        raise ConfigError(f"{path} is damaged; take it from a backup") from None


def write_manifest(folder: Path, manifest: Manifest, *, replace: bool) -> None:
    """Write `accounts.conf` of each server, then the manifest.

    Raises:
        ConfigError: a file cannot be written, or there is a manifest and `replace` is false.
    """
    write_accounts(folder, manifest)
    write_private(
        manifest_file(folder), manifest_text(manifest), replace=replace
    )  # last, because the manifest is what the next change starts from


def servers_of(folder: Path, manifest: Manifest) -> tuple[ServerFolder, ...]:
    """Return the server of the bus, or those of its cluster."""
    return server_folders(folder, [read_member(text) for text in manifest.bus.members])


def manifest_text(manifest: Manifest) -> str:
    """Return the content of `bus.toml`."""
    head = "# Who is on the bus. Written by `agentbus init`, `agentbus agent` and `agentbus coordinator`.\n"
    parties = {name: member.model_dump(exclude_defaults=True) for name, member in manifest.party.items()}
    bus = manifest.bus.model_dump(exclude_none=True)
    # Older versions do not know these keys.
    if not manifest.bus.members:
        del bus["members"]
    if manifest.bus.max_connections == MAX_CONNECTIONS:
        del bus["max_connections"]
    return head + toml_text({"bus": bus, "party": parties})


def new_credential(auth: Auth, party: PartyEntry) -> tuple[str, PartyEntry]:
    """Return a new secret, and the entry of the party with its public part."""
    if auth == "nkey":
        seed = nkeys.new_seed()
        return seed, party.model_copy(update={"nkey": nkeys.UserKey(seed).public})
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    return password, party.model_copy(update={"password_hash": _hashed(password)})


def _hashed(password: str) -> str:
    try:
        import bcrypt  # noqa: PLC0415
    except ImportError:
        raise ConfigError('passwords need bcrypt: pip install "agentbus-mcp[password]"; nkeys need nothing') from None
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()


def write_accounts(folder: Path, manifest: Manifest) -> None:
    """Write `accounts.conf` into the folder of each server."""
    for server in servers_of(folder, manifest):
        write_private(server.accounts, _accounts_text(manifest), replace=True)


def _accounts_text(manifest: Manifest) -> str:
    logins = {
        name: Login(_party_of(name, manifest), nkey=member.nkey, password_hash=member.password_hash)
        for name, member in sorted(manifest.party.items())
    }
    administrator = logins.pop(ADMINISTRATOR)
    # The server counts the storage of an account over all replicas; the sizes in bus.toml are those of one server.
    servers = 3 if manifest.bus.members else 1
    head = "# Written by `agentbus init`, `agent` and `coordinator`; they overwrite what is changed here.\n"
    return head + accounts_block(
        administrator,
        list(logins.values()),
        max_memory=times(manifest.bus.max_memory, servers),
        max_file=times(manifest.bus.max_file, servers),
        max_connections=manifest.bus.max_connections,
    )


def _party_of(name: str, manifest: Manifest) -> Party:
    if name == ADMINISTRATOR:
        return permissions.administrator()
    party = manifest.party[name]
    if name in manifest.coordinators:
        agents = manifest.agents if party.agents is None else party.agents
        return permissions.coordinator(name, party.role or "operator", agents)
    return permissions.worker(name, party.may_task)
