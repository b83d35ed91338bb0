"""How one process connects: servers, credentials and TLS files, resolved from a `[nats]` section."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from agentbus.config import nkeys
from agentbus.config.schema import SECRET_FILES, SECRET_FILES_OF_QUEUE, CoordinatorNatsSection, NatsSection
from agentbus.config.text_files import ENCODING, is_file, reason_of
from agentbus.config.urls import ServerUrl, parse_urls, refuse_sample
from agentbus.errors import ConfigError
from agentbus.protocol import subjects


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who to be on the bus, and the key of `[nats]` and the file that say so. `repr()` shows no secret."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey_seed: str | None = field(default=None, repr=False)
    jwt: str | None = field(default=None, repr=False)
    key: str | None = None
    file: Path | None = None

    def read_again(self) -> "Credentials":
        """These, as their file holds them now; from a URL they stay what they are.

        Raises:
            ConfigError: the file cannot be used.
        """
        return self if self.key is None or self.file is None else _from_file(self.key, self.file, self.user)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How one process connects: what `agentbus.bus.jetstream.connect` takes.

    Attributes:
        tasks_credentials: who the administrator is in the account of the queue, where that is apart; None elsewhere.
        batch_writes: write in one piece what is sent in one round of the event loop; otherwise nats-py writes. For
            tests, and to tell whether a fault lies there: no key of a configuration file sets it.
    """

    urls: tuple[ServerUrl, ...]
    name: str = "agentbus"
    credentials: Credentials = Credentials()
    tasks_credentials: Credentials | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 3.0
    reconnect_wait_s: float = 2.0
    max_reconnect_attempts: int = -1
    batch_writes: bool = True

    def dial_pause_s(self) -> float:
        """Draw the seconds between two dials of one connection: `reconnect_wait_s`, and up to a quarter more or less.

        So the thousand workers that lost a server at the same moment do not all dial it at the same moments.
        """
        return self.reconnect_wait_s * random.uniform(0.75, 1.25)  # noqa: S311

    @property
    def needs_tls(self) -> bool:
        """Whether no server is spoken to without TLS, whatever its URL says: configuring TLS means asking for it."""
        return self.tls_first or self.ca_file is not None or self.cert_file is not None

    @property
    def servers(self) -> str:
        """The servers for a person to read, without credentials."""
        return ", ".join(str(url) for url in self.urls)


def connection_settings(
    nats: NatsSection,
    *,
    agent: str,
    name: str,
    reconnect_wait_s: float = 2.0,
    max_reconnect_attempts: int = -1,
) -> ConnectionSettings:
    """Resolve a `[nats]` section, reading the secrets that it names.

    The inbox prefix, to which permissions bind the replies, follows the user (`agent-code` -> `_INBOX_code`), or
    the agent id where there is none.

    Raises:
        ConfigError: if a URL or a file that it names cannot be read.
    """
    urls = parse_urls(nats.url)
    credentials = _credentials(nats, urls)
    for file in (nats.ca_file, nats.cert_file, nats.key_file):
        if file is not None and not is_file(file):
            raise ConfigError(f"{file} does not exist")
    identity = subjects.agent_id(credentials.user) if subjects.is_agent_id(credentials.user) else agent
    return ConnectionSettings(
        urls=urls,
        name=name,
        credentials=credentials,
        tasks_credentials=_tasks_credentials(nats),
        ca_file=nats.ca_file,
        cert_file=nats.cert_file,
        key_file=nats.key_file,
        tls_first=nats.tls_first,
        inbox_prefix=nats.inbox_prefix or subjects.inbox_prefix(identity),
        reconnect_wait_s=reconnect_wait_s,
        max_reconnect_attempts=max_reconnect_attempts,
    )


def _credentials(nats: NatsSection, urls: tuple[ServerUrl, ...]) -> Credentials:
    """Take the credentials from the file that the section names, else from the URL."""
    named = next(((key, file) for key in SECRET_FILES if (file := getattr(nats, key)) is not None), None)
    if named is not None:
        return _from_file(*named, nats.user)
    first = next((url for url in urls if url.user), urls[0])
    if first.user is not None and first.password is None:
        return Credentials(token=first.user)
    return Credentials(nats.user or first.user, first.password)


def _tasks_credentials(nats: NatsSection) -> Credentials | None:
    if not isinstance(nats, CoordinatorNatsSection):
        return None
    named = next(((key, file) for key in SECRET_FILES_OF_QUEUE if (file := getattr(nats, key)) is not None), None)
    return _from_file(*named, nats.tasks_user) if named is not None else None


def _from_file(key: str, file: Path, user: str | None) -> Credentials:
    match key:
        case "password_file" | "tasks_password_file":
            return Credentials(user, read_secret(file), key=key, file=file)
        case "token_file":
            return Credentials(token=read_secret(file), key=key, file=file)
        case "nkey_file" | "tasks_nkey_file":
            return Credentials(user, nkey_seed=_nkey_seed(file), key=key, file=file)
        case _:
            jwt, seed = _creds(file)
            return Credentials(user, nkey_seed=seed, jwt=jwt, key=key, file=file)


def _nkey_seed(path: Path) -> str:
    seed = read_secret(path)
    try:
        nkeys.check_seed(seed)
    except ConfigError as error:
        raise ConfigError(f"the secret in {path} cannot be used: {error}") from None
    return seed


def _creds(path: Path) -> tuple[str, str]:
    try:
        return nkeys.read_creds(_text(path))
    except ConfigError as error:
        raise ConfigError(f"{path} cannot be used: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding=ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the secret in {path}: {reason_of(error)}") from None


def read_secret(path: Path) -> str:
    """The first line of a file that holds a secret.

    Raises:
        ConfigError: it cannot be read, is empty, or holds a sample password.
    """
    secret = _text(path).strip().partition("\n")[0].strip()
    if not secret:
        raise ConfigError(f"{path} is empty; it must hold the secret on its first line")
    refuse_sample(secret)
    return secret
