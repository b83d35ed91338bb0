"""The folder of a bus: the configuration of its server, its certificates, and the credentials of its parties.

`bus.toml` says who there is. `accounts.conf`, which the server's configuration includes, is written anew from it on
every change; `nats-server.conf` is written once and belongs to whoever runs the server. One change is made at a time:
each holds the `.lock` of the folder from reading what there is to the end of writing it.

A cluster has a folder for each of its servers under `servers/`. It holds neither the credentials of the parties nor
the key of the authority: those stay here.
"""

import re
import secrets
import tomllib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from agentbus.config import nkeys
from agentbus.config.private_files import private_folder, toml, write_private
from agentbus.config.schema import AgentId, Section
from agentbus.errors import ConfigError
from agentbus.protocol import permissions, subjects
from agentbus.protocol.permissions import ADMINISTRATOR, RESERVED, Party
from agentbus.provision.accounts_conf import Login, accounts_block
from agentbus.provision.bundle import Auth, Bundle, sign_in
from agentbus.provision.certificates import Pair, new_authority, new_server_certificate
from agentbus.provision.server_folder import (
    DEFAULT_PORT,
    Member,
    ServerFolder,
    Settings,
    check_members,
    configuration,
    host,
    read_member,
    server_folders,
    with_loopback,
    with_port,
    write_certificate,
    write_pair,
)

DEFAULT_MONITORING_PORT: Final = 8222
_COORDINATOR: Final = subjects.COORDINATOR
_AUTHORITY: Final = "agentbus private CA"
_SIZE = re.compile(r"[1-9][0-9]{0,9}(KiB|MiB|GiB|TiB)")
_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MAX_BYTES: Final = 1 << 60
_BCRYPT_ROUNDS: Final = 11
_LOCK_PATIENCE_S: Final = 10.0
"""How long a change waits for others: each takes milliseconds."""


def size(text: str) -> str:
    """Return an amount of storage that nats-server understands.

    Raises:
        ConfigError: it is not a whole number of KiB, MiB, GiB or TiB, or more than a server can count.
    """
    if not _SIZE.fullmatch(text) or in_bytes(text) >= _MAX_BYTES:
        raise ConfigError(f"{text!r} is no amount of storage; write it as 512MiB or 10GiB")
    return text


def in_bytes(amount: str) -> int:
    """The bytes of an amount of storage that `size` has let pass."""
    return int(amount[:-3]) * _UNITS[amount[-3:]]


class _Bus(Section):
    version: Literal[1] = 1
    url: str
    members: tuple[str, ...] = ()
    auth: Auth
    ca: Path | None = None
    max_memory: Annotated[str, AfterValidator(size)]
    max_file: Annotated[str, AfterValidator(size)]


class _Member(Section):
    """One party, by the public half of its credential."""

    nkey: str | None = None
    password_hash: Annotated[str | None, Field(repr=False)] = None
    may_task: tuple[AgentId, ...] = ()


class _Spec(Section):
    bus: _Bus
    party: dict[AgentId, _Member]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a new bus is to be: one server, or a cluster of `members`.

    Without certificates of one's own, an authority for private use is made.
    """

    hosts: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    port: int = DEFAULT_PORT
    monitoring_port: int = DEFAULT_MONITORING_PORT
    listen: str | None = None
    auth: Auth = "nkey"
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    store: Path | None = None
    max_memory: str = "256MiB"
    max_file: str = "10GiB"


class BusFolder:
    """The folder of one bus, opened."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            ConfigError: there is no bus in it.
        """
        self.path = path.expanduser().absolute()
        self._manifest = self.path / "bus.toml"
        self._spec = self._read()

    def _read(self) -> _Spec:
        try:
            return _Spec.model_validate(tomllib.loads(self._manifest.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ConfigError(f"there is no bus in {self.path}; make one with: agentbus init {self.path}") from None
        except OSError as error:
            raise ConfigError(f"cannot read {self._manifest}: {error.strerror}") from None
        except (ValidationError, ValueError):
            raise ConfigError(f"{self._manifest} is damaged; take it from a backup") from None

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients reach the server; the servers of a cluster, with commas between them."""
        return self._spec.bus.url

    @property
    def servers(self) -> tuple[ServerFolder, ...]:
        """Its server, or those of its cluster."""
        return server_folders(self.path, [read_member(text) for text in self._spec.bus.members])

    @property
    def clustered(self) -> bool:
        """Whether it has several servers."""
        return bool(self._spec.bus.members)

    @property
    def administrator(self) -> Path:
        """The configuration with which `agentbus setup` and `agentbus dead` sign in."""
        return self.path / "admin.toml"

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents that have credentials."""
        return tuple(sorted(name for name in self._spec.party if name not in RESERVED))

    def may_task(self, agent: str) -> tuple[str, ...]:
        """The agents that this one may give tasks to."""
        return self._member(agent).may_task

    def secret_file(self, name: str) -> Path:
        """Where the credential of one party lies."""
        return self.path / "credentials" / (f"{name}.nk" if self._spec.bus.auth == "nkey" else f"{name}.password")

    # -- changing it --------------------------------------------------------------------------------------------

    def add(self, agent: str, may_task: Sequence[str] = ()) -> None:
        """Give an agent credentials of its own.

        Raises:
            ConfigError: it has some, its id is reserved, or it names an agent that there is not in `may_task`.
        """
        if agent in RESERVED:
            raise ConfigError(f"no agent can be called {agent}: that is a party of every bus")
        with self._changing():
            self._add(agent, may_task)

    def _add(self, agent: str, may_task: Sequence[str]) -> None:
        alike = next((name for name in self._spec.party if name.casefold() == agent.casefold() and name != agent), None)
        if alike:
            raise ConfigError(f"{agent} and {alike} differ only in case, which not every file system can tell apart")
        if agent in self._spec.party:
            raise ConfigError(f"the agent {agent} has credentials already; new ones: agentbus agent rotate {agent}")
        for other in may_task:
            if other not in self.agents:
                raise ConfigError(f"there is no agent {other} that {agent} could give tasks to; add it first")
        self._enrol(agent, tuple(dict.fromkeys(may_task)))

    def rotate(self, name: str) -> None:
        """Replace the credential of one party; with the old one nobody signs in any more once the server knows."""
        with self._changing():
            self._enrol(name, self._member(name).may_task)

    def remove(self, agent: str) -> None:
        """Take an agent's credentials away, and other agents' right to give it tasks. Its tasks and results stay."""
        if agent in RESERVED:
            raise ConfigError(
                f"{agent} is a party of every bus and stays; new credentials: agentbus agent rotate {agent}"
            )
        with self._changing():
            self._member(agent)
            left = {
                name: member.model_copy(
                    update={"may_task": tuple(other for other in member.may_task if other != agent)}
                )
                for name, member in self._spec.party.items()
                if name != agent
            }
            self._save(left)
            self.secret_file(agent).unlink(missing_ok=True)

    def bundle(self, name: str) -> Bundle:
        """What one party needs to join."""
        member = self._member(name)
        bus = self._spec.bus
        try:
            secret = self.secret_file(name).read_text(encoding="utf-8").strip()
            ca = (self.path / bus.ca).read_text(encoding="utf-8") if bus.ca else None
        except OSError as error:
            raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from None
        roles = {ADMINISTRATOR: "administrator", _COORDINATOR: "coordinator"}
        return Bundle.model_validate(
            {
                "role": roles.get(name, "worker"),
                "id": name,
                "may_task": member.may_task,
                "url": bus.url,
                "auth": bus.auth,
                "secret": secret,
                "ca": ca,
            }
        )

    def _member(self, name: str) -> _Member:
        try:
            return self._spec.party[name]
        except KeyError:
            known = ", ".join(self.agents) or "none"
            raise ConfigError(f"there is no agent {name} on this bus (there are: {known}); add it first") from None

    @contextmanager
    def _changing(self) -> Generator[None]:
        """The block has the bus to itself, as the last change has left it."""
        with _locked(self.path):
            self._spec = self._read()
            yield

    def _enrol(self, name: str, may_task: tuple[str, ...]) -> None:
        secret, member = _new_credential(self._spec.bus.auth, may_task)
        write_private(self.secret_file(name), f"{secret}\n", replace=True)
        self._save({**self._spec.party, name: member})

    def _save(self, members: dict[str, _Member]) -> None:
        spec = self._spec.model_copy(update={"party": members})
        _write_accounts(self.path, spec)
        write_private(self._manifest, _manifest(spec), replace=True)  # last: with it the change is made
        self._spec = spec


def create(folder: Path, plan: Plan, agents: Iterable[str] = ()) -> BusFolder:
    """Make a bus in a folder, with an administrator, a coordinator, and credentials for each of `agents`.

    Raises:
        ConfigError: there is a bus in it already, or the plan cannot be carried out.
    """
    folder = folder.expanduser().absolute()
    _check_path(folder)
    private_folder(folder)
    with _locked(folder):
        made = _create(folder, plan)
        for agent in agents:
            made.add(agent)
    return made


def _check_path(folder: Path) -> None:
    """Refuse a folder whose path does not fit into what a bus needs it for.

    Raises:
        ConfigError: it is not UTF-8, or holds a `=`.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{str(folder)!r} is not UTF-8, as TOML files must be; choose another folder") from None
    if "=" in str(folder):
        raise ConfigError(
            f"{folder} has a '=' in it: `nats-server --signal reload=FILE` takes no such path; choose another folder"
        )


def _create(folder: Path, plan: Plan) -> BusFolder:
    manifest = folder / "bus.toml"
    if manifest.exists():
        raise ConfigError(f"there is a bus in {folder} already; it was left as it is")
    private_folder(folder / "credentials")
    hosts = tuple(dict.fromkeys(host(name) for name in plan.hosts)) or ("127.0.0.1",)
    ca = _cluster(folder, plan) if plan.members else _single(folder, plan, hosts)
    bus = _Bus(
        url=",".join(
            f"tls://{with_port(*place)}"
            for place in [(one.host, one.port) for one in plan.members] or [(hosts[0], plan.port)]
        ),
        members=tuple(map(str, plan.members)),
        auth=plan.auth,
        ca=ca,
        max_memory=size(plan.max_memory),
        max_file=size(plan.max_file),
    )
    members: dict[str, _Member] = {}
    for name in (ADMINISTRATOR, _COORDINATOR):
        secret, members[name] = _new_credential(plan.auth, ())
        write_private(
            folder / "credentials" / f"{name}.{'nk' if plan.auth == 'nkey' else 'password'}",
            f"{secret}\n",
            replace=True,
        )
    spec = _Spec(bus=bus, party=members)
    _write_accounts(folder, spec)
    write_private(folder / "admin.toml", _administrator(folder, spec), replace=True)
    write_private(manifest, _manifest(spec))
    return BusFolder(folder)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold the lock under which a bus is changed. The system lets go of it when a process dies, however it does.

    Raises:
        ConfigError: somebody else holds it for too long, or it cannot be had.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  # most who open a bus change nothing

    lock = FileLock(folder / ".lock", timeout=_LOCK_PATIENCE_S, mode=0o600, is_singleton=True)
    try:
        lock.acquire()  # again, where a new bus gets its agents
    except Timeout:
        raise ConfigError(
            f"another command has been changing the bus in {folder} for {_LOCK_PATIENCE_S:g} s; "
            "wait for its end, or end it, and try again"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot lock the bus in {folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _single(folder: Path, plan: Plan, hosts: tuple[str, ...]) -> Path | None:
    """Write the configuration of the one server; returns the CA that clients need to be told of."""
    certificate, key, ca = _certificates(folder, plan, hosts)
    [server] = server_folders(folder, ())
    default = "0.0.0.0" if plan.hosts else "127.0.0.1"  # noqa: S104  # asked for by naming a host
    listen = host(plan.listen) if plan.listen else default
    store = plan.store.expanduser().absolute() if plan.store else folder / "jetstream"
    settings = Settings(
        listen, plan.port, plan.monitoring_port, certificate, key, store, plan.max_memory, plan.max_file
    )
    write_private(server.configuration, configuration(server, settings), replace=True)
    return ca


def _cluster(folder: Path, plan: Plan) -> Path:
    """Write a folder for each server of a cluster; returns the CA that clients need to be told of."""
    check_members(plan.members)
    if plan.certificate or plan.key or plan.ca:
        raise ConfigError(
            "the servers of a cluster need certificates of the bus's own authority, also for each other; "
            "leave out --cert, --key and --ca"
        )
    authority = new_authority(_AUTHORITY)
    private_folder(folder / "tls")
    private_folder(folder / "servers")
    write_pair(folder / "tls", "ca", authority)
    for server in server_folders(folder, plan.members):
        assert server.member is not None, "it is one of a cluster"
        private_folder(server.path)
        write_certificate(authority, server, plan.hosts)
        settings = Settings(
            host(plan.listen) if plan.listen else "0.0.0.0",  # noqa: S104  # the other servers are elsewhere
            server.member.port,
            plan.monitoring_port,
            Path("server.pem"),
            Path("server-key.pem"),
            plan.store or Path("jetstream"),
            plan.max_memory,
            plan.max_file,
        )
        write_private(server.configuration, configuration(server, settings, plan.members), replace=True)
    return folder / "tls" / "ca.pem"


def _certificates(folder: Path, plan: Plan, hosts: tuple[str, ...]) -> tuple[Path, Path, Path | None]:
    """The server's certificate and key, and the CA that clients need to be told of."""
    given = {"--cert": plan.certificate, "--key": plan.key, "--ca": plan.ca}
    if plan.certificate is None or plan.key is None:
        if any(given.values()):
            raise ConfigError("--cert and --key go together, and --ca goes with them")
        tls = folder / "tls"
        authority = new_authority(_AUTHORITY)
        private_folder(tls)
        write_pair(tls, "ca", authority)
        write_pair(tls, "server", new_server_certificate(authority, with_loopback(hosts)))
        return tls / "server.pem", tls / "server-key.pem", tls / "ca.pem"
    for option, path in given.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"{option}: {path} does not exist")
    return plan.certificate.absolute(), plan.key.absolute(), plan.ca.absolute() if plan.ca else None


def renew_certificate(bus: BusFolder, hosts: Sequence[str]) -> None:
    """Sign a new certificate for each server with the bus's own authority.

    Args:
        hosts: names and addresses of the server; in a cluster, those that all have beside their own.

    Raises:
        ConfigError: the bus has no authority of its own.
    """
    folder = bus.path / "tls"
    try:
        authority = Pair((folder / "ca.pem").read_bytes(), (folder / "ca-key.pem").read_bytes())
    except OSError:
        raise ConfigError(
            f"the bus in {bus.path} has no authority of its own; renew the certificate where it came from"
        ) from None
    with _locked(bus.path):
        for server in bus.servers:
            if server.member is None:
                write_pair(folder, "server", new_server_certificate(authority, with_loopback(map(host, hosts))))
            else:
                write_certificate(authority, server, hosts)


def _new_credential(auth: Auth, may_task: tuple[str, ...]) -> tuple[str, _Member]:
    """A secret, and what the server needs to know of it."""
    if auth == "nkey":
        seed = nkeys.new_seed()
        return seed, _Member(nkey=nkeys.UserKey(seed).public, may_task=may_task)
    password = secrets.token_urlsafe(32)
    return password, _Member(password_hash=_hashed(password), may_task=may_task)


def _hashed(password: str) -> str:
    try:
        import bcrypt  # noqa: PLC0415
    except ImportError:
        raise ConfigError('passwords need bcrypt: pip install "agentbus-mcp[password]"; nkeys need nothing') from None
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode()


def _party(name: str, spec: _Spec) -> Party:
    agents = sorted(other for other in spec.party if other not in RESERVED)
    if name == ADMINISTRATOR:
        return permissions.administrator()
    return (
        permissions.coordinator(agents) if name == _COORDINATOR else permissions.worker(name, spec.party[name].may_task)
    )


def _write_accounts(folder: Path, spec: _Spec) -> None:
    for server in server_folders(folder, [read_member(text) for text in spec.bus.members]):
        write_private(server.accounts, _accounts(spec), replace=True)


def _accounts(spec: _Spec) -> str:
    logins = {
        name: Login(_party(name, spec), nkey=member.nkey, password_hash=member.password_hash)
        for name, member in sorted(spec.party.items())
    }
    administrator = logins.pop(ADMINISTRATOR)
    # The storage of an account is counted with all copies; `agentbus setup` makes streams for servers of this size.
    servers = 3 if spec.bus.members else 1
    return "# Written by `agentbus init` and `agentbus agent`; they overwrite what is changed here.\n" + accounts_block(
        administrator,
        list(logins.values()),
        max_memory=_times(spec.bus.max_memory, servers),
        max_file=_times(spec.bus.max_file, servers),
    )


def _times(amount: str, factor: int) -> str:
    """An amount of storage, several times: `10GiB` three times is `30GiB`."""
    return f"{int(amount[:-3]) * factor}{amount[-3:]}"


def _manifest(spec: _Spec) -> str:
    head = "# Who is on the bus. Written by `agentbus init` and `agentbus agent`.\n"
    parties = {f"party.{name}": member.model_dump(exclude_defaults=True) for name, member in spec.party.items()}
    bus = spec.bus.model_dump(exclude_none=True)
    if not spec.bus.members:
        del bus["members"]  # so that older versions can read it
    return head + toml({"bus": bus, **parties})


def _administrator(folder: Path, spec: _Spec) -> str:
    secret = folder / "credentials" / ("admin.nk" if spec.bus.auth == "nkey" else "admin.password")
    party = permissions.administrator()
    return "# For `agentbus setup` and `agentbus dead`.\n" + toml(
        {
            "nats": {
                "url": spec.bus.url,
                **sign_in(spec.bus.auth, party.id, secret),
                "ca_file": folder / spec.bus.ca if spec.bus.ca else None,
                "inbox_prefix": subjects.inbox_prefix(party.id),
            }
        }
    )
