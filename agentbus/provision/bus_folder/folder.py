"""The folder of a bus: the configuration of its server, its certificates, and the credentials of its parties.

`bus.toml` lists the parties of the bus. Each change generates `accounts.conf` from it, which the server's configuration
includes. `nats-server.conf` is written once, and the operator may edit it. A change holds the `.lock` of the folder
from reading `bus.toml` to the end of writing, so that changes do not overlap.

A cluster has a folder for each of its servers under `servers/`. These do not contain credentials of parties or the key
of the authority.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from agentbus.config.home import in_home
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR, RESERVED
from agentbus.protocol.roles import Role
from agentbus.provision.bundle import Bundle, sign_in
from agentbus.provision.bus_folder import credentials
from agentbus.provision.bus_folder.manifest import (
    NEWEST_LAYOUT,
    Manifest,
    PartyEntry,
    manifest_file,
    read_manifest,
    servers_of,
    write_manifest,
)
from agentbus.provision.bus_folder.server_folder import ServerFolder
from agentbus.provision.folder_lock import locked

Kind = Literal["agent", "coordinator"]
"""What a party is, and the group of commands for it. Those for agents take `main` and the administrator, too."""


def older_layout(config: Path | None) -> str:
    """Say that a bus has an older layout, if `config` is its administrator's in its folder; else return nothing."""
    if config is None or not manifest_file(config.parent).exists():
        return ""
    try:
        bus = BusFolder(config.parent)
    except ConfigError:
        return ""
    if bus.has_newest_layout or config.resolve() != bus.administrator.resolve():
        return ""
    return f"the bus in {bus.path} has an older layout, {bus.lacks}"


def folder_of(config: Path | None) -> "BusFolder | None":
    """Return the folder of the bus that `config` is the administrator's of; None for a file elsewhere."""
    if config is None or not manifest_file(config.parent).exists():
        return None
    with suppress(ConfigError):
        return BusFolder(config.parent)
    return None


class BusFolder:
    """An existing bus folder: lists the parties of the bus, and changes them."""

    def __init__(self, path: Path) -> None:
        """Read the manifest of the folder.

        Raises:
            ConfigError: there is no bus in it.
        """
        self.path = in_home(path).absolute()
        self._manifest = read_manifest(self.path)

    # -- contents -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The URL of the server; for a cluster those of all servers, separated by commas."""
        return self._manifest.bus.url

    @property
    def servers(self) -> tuple[ServerFolder, ...]:
        """The server of the bus, or those of its cluster."""
        return servers_of(self.path, self._manifest)

    @property
    def clustered(self) -> bool:
        """Whether the bus has several servers."""
        return bool(self._manifest.bus.members)

    @property
    def administrator(self) -> Path:
        """The configuration file of the administrator, for `agentbus setup` and `agentbus dead`."""
        return credentials.administrator_file(self.path)

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that have credentials."""
        return self._manifest.agents

    @property
    def coordinators(self) -> tuple[str, ...]:
        """The coordinators that have credentials, `main` first."""
        return self._manifest.coordinators

    @property
    def with_ledgers(self) -> tuple[str, ...]:
        """The coordinators whose MCP clients have tasks, which the bus keeps; a viewer writes nothing."""
        return tuple(name for name in self.coordinators if self.role(name) != "viewer")

    @property
    def retired(self) -> tuple[str, ...]:
        """The agents that were removed, of which there may be something on the bus."""
        return self._manifest.bus.retired

    def forget(self, agents: Sequence[str]) -> None:
        """Forget agents that were removed, of which nothing is left on the bus."""
        with self._locked():
            self._retire(one for one in self._manifest.bus.retired if one not in agents)
            self._save(self._manifest)

    def may_task(self, agent: str) -> tuple[str, ...]:
        """Return the agents that this one may give tasks to."""
        return self._party(agent, "agent", "bundle").may_task

    def role(self, coordinator: str) -> Role:
        """Return what a coordinator may do."""
        return self._party(coordinator, "coordinator", "bundle").role or "operator"

    def agents_of(self, coordinator: str) -> tuple[str, ...] | None:
        """Return the agents that a coordinator may give tasks to; None for all, also those that are added later."""
        return () if self.role(coordinator) == "viewer" else self._manifest.party[coordinator].agents

    def secret_file(self, name: str) -> Path:
        """Return the path of a party's credential."""
        return credentials.secret_file(self.path, self._manifest, name)

    def sign_in_as(self, name: str) -> dict[str, str | Path]:
        """Return the keys of `[nats]` that name the credential of a party, for a connection from this machine."""
        return sign_in(self._manifest.bus.auth, name, self.secret_file(name))

    @property
    def tasks_secret_file(self) -> Path | None:
        """The administrator's credential for the account of the queue; None where that is not apart."""
        return credentials.tasks_secret_file(self.path, self._manifest)

    @property
    def connections_of_agent(self) -> int:
        """How many connections one agent may have, as far as `accounts.conf` was written since."""
        return self._manifest.bus.max_connections

    @property
    def queue_apart(self) -> bool:
        """Whether the queue has an account of its own; in the older layout, all streams lie in one."""
        return self._manifest.queue_apart

    @property
    def has_audit(self) -> bool:
        """Whether the bus keeps who published what."""
        return self._manifest.has_audit

    @property
    def ledgers_apart(self) -> bool:
        """Whether each party has a ledger of its own."""
        return self._manifest.ledgers_apart

    @property
    def lacks(self) -> str:
        """What an older layout is without, as the end of a sentence."""
        return self._manifest.lacks

    @property
    def has_newest_layout(self) -> bool:
        """Whether `agentbus init --upgrade` has written everything that this version knows."""
        return self._manifest.bus.version == NEWEST_LAYOUT

    # -- changes --------------------------------------------------------------------------------------------

    def add(self, agent: str, may_task: Sequence[str] = ()) -> None:
        """Give an agent a credential of its own.

        Raises:
            ConfigError: another party has the id, it is reserved, or `may_task` names an agent that is not on the bus.
        """
        with self._locked():
            self._check_new(agent, "agent", may_task)
            self._retire(one for one in self._manifest.bus.retired if one != agent)
            self._renew_credential(agent, PartyEntry(may_task=tuple(dict.fromkeys(may_task))))

    def add_coordinator(self, name: str, role: Role = "member", agents: Sequence[str] | None = None) -> None:
        """Give a coordinator a credential of its own.

        Args:
            agents: the agents that a member may give tasks to; None for all, also those that are added later.

        Raises:
            ConfigError: another party has the id, it is reserved, or `agents` names an agent that is not on the bus, or
                is given for another role; or the bus has an older layout.
        """
        if agents is not None and role != "member":
            raise ConfigError(f"only members have a list of agents: leave out --agent, or the role {role}")
        with self._locked():
            if not self._manifest.queue_apart:
                raise ConfigError(
                    f"the layout of the bus in {self.path} is older than named coordinators; agentbus init --upgrade"
                )
            self._check_new(name, "coordinator", agents or ())
            only = None if agents is None else tuple(dict.fromkeys(agents))
            self._renew_credential(name, PartyEntry(role=role, agents=only))

    def _check_new(self, name: str, kind: Kind, tasked: Sequence[str]) -> None:
        if name in RESERVED:
            raise ConfigError(f"no {kind} can be called {name}: that is a party of every bus")
        parties = self._manifest.party
        same_but_case = next(
            (other for other in parties if other != name and other.casefold() == name.casefold()), None
        )
        if same_but_case:
            raise ConfigError(
                f"{name} and {same_but_case} differ only in case, which not every file system can tell apart"
            )
        if name in parties:
            if self._kind(name) != kind:
                raise ConfigError(f"this bus has the {self._kind(name)} {name}; give the {kind} another id")
            raise ConfigError(f"the {kind} {name} has credentials already; new ones: agentbus {kind} rotate {name}")
        for other in tasked:
            if other not in self.agents:
                raise ConfigError(f"there is no agent {other} that {name} could give tasks to; add it first")

    def rotate(self, name: str, kind: Kind = "agent") -> None:
        """Replace the credential of one party; the server refuses the old one after its next reload."""
        with self._locked():
            self._renew_credential(name, self._party(name, kind, "rotate"))

    def remove(self, name: str, kind: Kind = "agent") -> None:
        """Remove a party's credential, and the right of others to give it tasks. Its tasks and results stay."""
        if name in RESERVED:
            raise ConfigError(
                f"{name} is a party of every bus and stays; new credentials: agentbus {kind} rotate {name}"
            )
        with self._locked():
            self._party(name, kind, "remove")
            left = {other: party.without(name) for other, party in self._manifest.party.items() if other != name}
            if kind == "agent" and self._manifest.ledgers_apart:  # older versions do not know that key
                self._retire((*self._manifest.bus.retired, name))
            self._save(self._manifest.model_copy(update={"party": left}))
            try:
                self.secret_file(name).unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{name} is removed, but {self.secret_file(name)} cannot be deleted: {error.strerror}; delete it"
                ) from None

    def rewrite_accounts(self, connections_of_agent: int | None = None) -> None:
        """Write `accounts.conf` again, with another bound of connections, or with what was changed in `bus.toml`."""
        with self._locked():
            manifest = self._manifest
            if connections_of_agent is not None:
                bus = manifest.bus.model_copy(update={"max_connections": connections_of_agent})
                manifest = manifest.model_copy(update={"bus": bus})
            self._save(manifest)

    def set_newest_layout(self, retired: Sequence[str] = ()) -> None:
        """Change the folder to the newest layout; from the first one on, the queue gets an account of its own.

        What is not written when it is interrupted is written when it is repeated.

        Args:
            retired: those who have tasks on the bus and are none of its parties any more.
        """
        with self._locked():
            self._retire((*self._manifest.bus.retired, *retired))
            bus = self._manifest.bus.model_copy(update={"version": NEWEST_LAYOUT})
            manifest = self._manifest.model_copy(update={"bus": bus})
            if not self._manifest.queue_apart:
                manifest = credentials.with_tasks_credential(self.path, manifest)
                credentials.write_administrator_toml(self.path, manifest)
            self._save(manifest)

    def bundle(self, name: str, kind: Kind = "agent") -> Bundle:
        """Return the bundle of a party."""
        party = self._party(name, kind, "bundle")
        bus = self._manifest.bus
        second = self.tasks_secret_file if name == ADMINISTRATOR else None
        try:
            secret = self.secret_file(name).read_text(encoding="utf-8").strip()
            tasks_secret = second.read_text(encoding="utf-8").strip() if second else None
            ca = (self.path / bus.ca).read_text(encoding="utf-8") if bus.ca else None
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
        roles = {ADMINISTRATOR: "administrator", subjects.COORDINATOR: "coordinator"}
        return Bundle.model_validate(
            {
                "role": party.role or roles.get(name, "worker"),
                "id": name,
                "may_task": party.may_task,
                "agents": party.agents,
                "url": bus.url,
                "auth": bus.auth,
                "secret": secret,
                "tasks_secret": tasks_secret,
                "ca": ca,
            }
        )

    def _party(self, name: str, kind: Kind, command: str) -> PartyEntry:
        """Return the entry of a party that a command of the group `kind` names."""
        if name not in self._manifest.party:
            known = ", ".join(self.agents if kind == "agent" else self.coordinators) or "none"
            raise ConfigError(f"there is no {kind} {name} on this bus (there are: {known}); add it first")
        there = self._kind(name)
        if there != kind and not (kind == "agent" and name in RESERVED):
            raise ConfigError(f"{name} is no {kind} of this bus; use: agentbus {there} {command} {name}")
        return self._manifest.party[name]

    def _kind(self, name: str) -> Kind:
        return "coordinator" if name in self.coordinators else "agent"

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the lock of the folder, and read the manifest again: another process may have changed it."""
        with locked(self.path):
            self._manifest = read_manifest(self.path)
            yield

    def _retire(self, agents: Iterable[str]) -> None:
        """Remember which agents were removed; written with what else changes."""
        bus = self._manifest.bus.model_copy(update={"retired": tuple(dict.fromkeys(agents))})
        self._manifest = self._manifest.model_copy(update={"bus": bus})

    def _renew_credential(self, name: str, entry: PartyEntry) -> None:
        self._save(credentials.with_new_credential(self.path, self._manifest, name, entry))

    def _save(self, manifest: Manifest) -> None:
        write_manifest(self.path, manifest, replace=True)
        self._manifest = manifest
