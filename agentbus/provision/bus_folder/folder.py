"""The folder of a bus: the configuration of its server, its certificates, and the credentials of its parties.

`bus.toml` lists the parties of the bus. Each change generates `accounts.conf` from it, which the server's configuration
includes. `nats-server.conf` is written once, and the operator may edit it. A change holds the `.lock` of the folder
from reading `bus.toml` to the end of writing, so that changes do not overlap.

A cluster has a folder for each of its servers under `servers/`. These do not contain credentials of parties or the key
of the authority.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentbus.config.private_files import write_private
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR, RESERVED
from agentbus.provision.bundle import Bundle, secret_name
from agentbus.provision.bus_folder.lock import locked
from agentbus.provision.bus_folder.manifest import PartyEntry, new_credential, read_manifest, servers_of, write_manifest
from agentbus.provision.bus_folder.server_folder import ServerFolder


class BusFolder:
    """An existing bus folder: lists the parties of the bus, and changes them."""

    def __init__(self, path: Path) -> None:
        """Read the manifest of the folder.

        Raises:
            ConfigError: there is no bus in it.
        """
        self.path = path.expanduser().absolute()
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
        return self.path / "admin.toml"

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that have credentials."""
        return tuple(sorted(name for name in self._manifest.party if name not in RESERVED))

    def may_task(self, agent: str) -> tuple[str, ...]:
        """Return the agents that this one may give tasks to."""
        return self._party(agent).may_task

    def secret_file(self, name: str) -> Path:
        """Return the path of a party's credential."""
        return self.path / "credentials" / secret_name(self._manifest.bus.auth, name)

    # -- changes --------------------------------------------------------------------------------------------

    def add(self, agent: str, may_task: Sequence[str] = ()) -> None:
        """Give an agent a credential of its own.

        Raises:
            ConfigError: it has one already, its id is reserved, or `may_task` names an agent that is not on the bus.
        """
        if agent in RESERVED:
            raise ConfigError(f"no agent can be called {agent}: that is a party of every bus")
        with self._locked():
            self._add(agent, may_task)

    def _add(self, agent: str, may_task: Sequence[str]) -> None:
        same_but_case = next(
            (other for other in self._manifest.party if other != agent and other.casefold() == agent.casefold()), None
        )
        if same_but_case:
            raise ConfigError(
                f"{agent} and {same_but_case} differ only in case, which not every file system can tell apart"
            )
        if agent in self._manifest.party:
            raise ConfigError(f"the agent {agent} has credentials already; new ones: agentbus agent rotate {agent}")
        for other in may_task:
            if other not in self.agents:
                raise ConfigError(f"there is no agent {other} that {agent} could give tasks to; add it first")
        self._renew_credential(agent, tuple(dict.fromkeys(may_task)))

    def rotate(self, name: str) -> None:
        """Replace the credential of one party; the server refuses the old one after its next reload."""
        with self._locked():
            self._renew_credential(name, self._party(name).may_task)

    def remove(self, agent: str) -> None:
        """Remove an agent's credential, and the right of other agents to give it tasks. Its tasks and results stay."""
        if agent in RESERVED:
            raise ConfigError(
                f"{agent} is a party of every bus and stays; new credentials: agentbus agent rotate {agent}"
            )
        with self._locked():
            self._party(agent)
            left = {
                name: party.model_copy(update={"may_task": tuple(other for other in party.may_task if other != agent)})
                for name, party in self._manifest.party.items()
                if name != agent
            }
            self._save(left)
            try:
                self.secret_file(agent).unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{agent} is removed, but {self.secret_file(agent)} cannot be deleted: {error.strerror}; delete it"
                ) from None

    def bundle(self, name: str) -> Bundle:
        """Return the bundle of a party."""
        party = self._party(name)
        bus = self._manifest.bus
        try:
            secret = self.secret_file(name).read_text(encoding="utf-8").strip()
            ca = (self.path / bus.ca).read_text(encoding="utf-8") if bus.ca else None
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
        roles = {ADMINISTRATOR: "administrator", subjects.COORDINATOR: "coordinator"}
        return Bundle.model_validate(
            {
                "role": roles.get(name, "worker"),
                "id": name,
                "may_task": party.may_task,
                "url": bus.url,
                "auth": bus.auth,
                "secret": secret,
                "ca": ca,
            }
        )

    def _party(self, name: str) -> PartyEntry:
        try:
            return self._manifest.party[name]
        except KeyError:
            known = ", ".join(self.agents) or "none"
            raise ConfigError(f"there is no agent {name} on this bus (there are: {known}); add it first") from None

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the lock of the folder, and read the manifest again: another process may have changed it."""
        with locked(self.path):
            self._manifest = read_manifest(self.path)
            yield

    def _renew_credential(self, name: str, may_task: tuple[str, ...]) -> None:
        secret, party = new_credential(self._manifest.bus.auth, may_task)
        write_private(self.secret_file(name), f"{secret}\n", replace=True)
        self._save({**self._manifest.party, name: party})

    def _save(self, parties: dict[str, PartyEntry]) -> None:
        manifest = self._manifest.model_copy(update={"party": parties})
        write_manifest(self.path, manifest, replace=True)
        self._manifest = manifest
