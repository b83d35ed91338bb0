"""Reads and writes `bus.toml`, the list of a bus's parties, and generates `accounts.conf` of each server from it."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from agentbus.config.private_files import write_private
from agentbus.config.schema import AgentId, Section, Unquoted
from agentbus.config.storage_sizes import split, storage_size, times
from agentbus.config.text_files import ENCODING
from agentbus.config.toml_text import toml_text
from agentbus.errors import ConfigError
from agentbus.protocol import accounts, permissions, subjects
from agentbus.protocol.accounts import (
    LAYOUT_WITH_AUDIT,
    LAYOUT_WITH_CONTROL,
    LAYOUT_WITH_INPUTS,
    LAYOUT_WITH_LEDGERS_APART,
    LAYOUT_WITH_PLACES,
    LAYOUT_WITH_QUEUE_APART,
    LAYOUT_WITH_WHOLE_LEDGER,
)
from agentbus.protocol.parties.party import Party
from agentbus.protocol.permissions import ADMINISTRATOR, RESERVED
from agentbus.protocol.roles import Role
from agentbus.provision.bundle import Auth, tasks_user
from agentbus.provision.bus_folder.accounts_conf import MAX_CONNECTIONS, Login, StreamsAccount, accounts_block
from agentbus.provision.bus_folder.server_folder import ServerFolder, read_member, server_folders

# In percent of what the bus has. The streams reserve 84 %, and that of tasks 15 % of the disk: see
# `agentbus.bus.topology`. While it is moved, they all lie in the account of the others.
FILE_OF_QUEUE: Final = 16
_FILE_OF_QUEUE_WITHOUT_AUDIT: Final = 20
_MEMORY_OF_QUEUE: Final = 25
NEWEST_LAYOUT: Final = LAYOUT_WITH_INPUTS


class BusEntry(Section):
    """The section `[bus]`: the settings that all parties share.

    Attributes:
        version: the layout of the bus: 1 has one account for all streams, 2 has one for the queue alone, 3 has the
            audit, 4 lets the ledger be read without a filter, 5 lets operators pause agents, 6 has a ledger for each
            party, 7 lets workers read which places are alive, 8 lets tasks bring files.
        retired: agents that were removed. Their ledgers stay until their tasks have expired, and can be read.
    """

    version: Literal[1, 2, 3, 4, 5, 6, 7, 8] = 1
    url: str
    members: tuple[str, ...] = ()
    auth: Auth
    ca: Path | None = None
    max_memory: Annotated[str, AfterValidator(storage_size)]
    max_file: Annotated[str, AfterValidator(storage_size)]
    max_connections: Annotated[int, Unquoted, Field(ge=1, le=65_536)] = MAX_CONNECTIONS
    retired: tuple[AgentId, ...] = ()


class PartyEntry(Section):
    """A section `[party.ID]`: one party, by the public part of its credential.

    Attributes:
        may_task: of an agent, the agents that its workers may give tasks to.
        role: of a named coordinator.
        agents: of a member, the agents that it may give tasks to; None for all, also those that are added later.
        tasks_nkey: of the administrator, which has a second user in the account of the queue; or `tasks_password_hash`.
    """

    nkey: str | None = None
    password_hash: Annotated[str | None, Field(repr=False)] = None
    tasks_nkey: str | None = None
    tasks_password_hash: Annotated[str | None, Field(repr=False)] = None
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

    @property
    def queue_apart(self) -> bool:
        """Whether the queue has an account of its own."""
        return self.bus.version >= LAYOUT_WITH_QUEUE_APART

    @property
    def has_audit(self) -> bool:
        """Whether the queue tells what was published, and has its share of the storage beside the audit."""
        return self.bus.version >= LAYOUT_WITH_AUDIT

    @property
    def ledgers_apart(self) -> bool:
        """Whether each party has a ledger of its own."""
        return self.bus.version >= LAYOUT_WITH_LEDGERS_APART

    @property
    def has_whole_ledger(self) -> bool:
        """Whether who may read the whole ledger may do so without a filter."""
        return self.bus.version >= LAYOUT_WITH_WHOLE_LEDGER

    @property
    def has_control(self) -> bool:
        """Whether operators can pause agents."""
        return self.bus.version >= LAYOUT_WITH_CONTROL

    @property
    def has_places(self) -> bool:
        """Whether workers may see which places of their agent are alive, so that follow-ups find their session."""
        return self.bus.version >= LAYOUT_WITH_PLACES

    @property
    def lacks(self) -> str:
        """What an older layout is without, as the end of a sentence."""
        lacking = (
            (self.queue_apart, "in which a party can disturb the tasks of others"),
            (self.has_audit, "without the audit"),
            (self.has_whole_ledger, "in which each look at all tasks takes longer the more there are"),
            (self.has_control, "in which no operator can pause an agent"),
            (self.ledgers_apart, "in which one agent can fill the ledger of all"),
            (self.has_places, "in which no follow-up finds its session"),
        )
        return next((what for has, what in lacking if not has), "in which no task can bring files")


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
        values = tomllib.loads(path.read_text(encoding=ENCODING))
        if _is_of_newer_version(values):
            raise ConfigError(f"{path} was made by a newer version of agentbus; upgrade agentbus on this machine")
        return Manifest.model_validate(values)
    except FileNotFoundError:
        raise ConfigError(f"there is no bus in {folder}; make one with: agentbus init {folder}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValidationError, ValueError):
        raise ConfigError(f"{path} is damaged; take it from a backup") from None


def _is_of_newer_version(values: dict[str, Any]) -> bool:
    bus = values.get("bus")
    version = bus.get("version") if isinstance(bus, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return isinstance(version, int) and version > NEWEST_LAYOUT


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
    if not manifest.bus.retired:
        del bus["retired"]
    return head + toml_text({"bus": bus, "party": parties})


def write_accounts(folder: Path, manifest: Manifest) -> None:
    """Write `accounts.conf` into the folder of each server."""
    for server in servers_of(folder, manifest):
        write_private(server.accounts, _accounts_text(manifest), replace=True)


def _accounts_text(manifest: Manifest) -> str:
    entries = dict(sorted(manifest.party.items()))
    administrator = entries.pop(ADMINISTRATOR)
    logins = [
        Login(_party_of(name, manifest), nkey=entry.nkey, password_hash=entry.password_hash)
        for name, entry in entries.items()
    ]
    head = "# Written by `agentbus init`, `agent` and `coordinator`; they overwrite what is changed here.\n"
    streams = _streams_accounts(manifest, administrator)
    return head + accounts_block(
        streams, logins, max_connections=manifest.bus.max_connections, ledgers_apart=manifest.ledgers_apart
    )


def _streams_accounts(manifest: Manifest, entry: PartyEntry) -> list[StreamsAccount]:
    """Return the accounts of the streams, which share the storage of the bus.

    The server does not start where they may use more than its own limits, which are those of `bus.toml`.
    """
    party = permissions.administrator()
    # The server counts the storage of an account over all replicas; the sizes in bus.toml are those of one server.
    servers = 3 if manifest.bus.members else 1
    memory, file = times(manifest.bus.max_memory, servers), times(manifest.bus.max_file, servers)
    everywhere = Login(party, nkey=entry.nkey, password_hash=entry.password_hash)
    if not manifest.queue_apart:
        return [StreamsAccount(accounts.BUS, everywhere, memory, file)]
    of_queue = Login(party, nkey=entry.tasks_nkey, password_hash=entry.tasks_password_hash, user=tasks_user(party.user))
    of_rest = replace(everywhere, party=permissions.within(party, accounts.BUS))
    memory_of_queue, memory_of_rest = split(memory, _MEMORY_OF_QUEUE)
    # A running server does not take limits that are divided in another way: those of layout 2 stay until its upgrade.
    percent = FILE_OF_QUEUE if manifest.has_audit else _FILE_OF_QUEUE_WITHOUT_AUDIT
    file_of_queue, file_of_rest = split(file, percent)
    return [
        StreamsAccount(accounts.TASKS, of_queue, memory_of_queue, file_of_queue),
        StreamsAccount(accounts.BUS, of_rest, memory_of_rest, file_of_rest),
    ]


def _party_of(name: str, manifest: Manifest) -> Party:
    if name == ADMINISTRATOR:
        return permissions.administrator()
    party = manifest.party[name]
    layout, everyone = manifest.bus.version, (*manifest.agents, *manifest.bus.retired)
    if name in manifest.coordinators:
        agents, role = manifest.agents if party.agents is None else party.agents, party.role or "operator"
        return permissions.coordinator(name, role, agents, others=everyone, layout=layout).on_layout(layout)
    return permissions.worker(name, party.may_task, others=everyone, layout=layout)
