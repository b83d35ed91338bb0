"""Configuration: TOML files for workers and coordinators, read in a fixed order and checked key by key.

Secrets come from a file, or from a file that it names; they never show in a repr, an error or a log line.
"""

import os
import shlex
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from pydantic import ValidationError

from agentbus.config import nkeys
from agentbus.config.schema import (
    DEFAULT_URL,
    INPUT_FILE_PLACEHOLDER,
    INPUT_PLACEHOLDER,
    SECRET_FILES,
    TASK_ID_PLACEHOLDER,
    WORKDIR_PLACEHOLDER,
    AgentSection,
    CoordinatorConfig,
    CoordinatorSection,
    LogSection,
    MetricsSection,
    NatsSection,
    Section,
    WorkerConfig,
    WorkerNatsSection,
    WorkerSection,
)
from agentbus.config.urls import ServerUrl, parse_urls, refuse_sample
from agentbus.errors import ConfigError
from agentbus.protocol import subjects

__all__ = [
    "DEFAULT_URL",
    "INPUT_FILE_PLACEHOLDER",
    "INPUT_PLACEHOLDER",
    "TASK_ID_PLACEHOLDER",
    "URL_VARIABLE",
    "WORKDIR_PLACEHOLDER",
    "AgentSection",
    "ConnectionSettings",
    "CoordinatorConfig",
    "CoordinatorSection",
    "Credentials",
    "LogSection",
    "MetricsSection",
    "NatsSection",
    "ServerUrl",
    "WorkerConfig",
    "WorkerNatsSection",
    "WorkerSection",
    "connection_settings",
    "coordinator_file",
    "load_coordinator",
    "load_worker",
    "worker_files",
]

URL_VARIABLE: Final = "AGENTBUS_NATS_URL"
_ENCODING: Final = "utf-8-sig"  # some editors write a byte order mark, which is no part of the text


def worker_files() -> tuple[Path, ...]:
    """Where a worker looks for its configuration, first match first."""
    return (Path("agentbus.toml"), Path("~/.agentbus/config.toml").expanduser(), Path("/etc/agentbus/agentbus.toml"))


def coordinator_file() -> Path:
    """Where the command line and the MCP server look for theirs."""
    return Path("~/.agentbus/coordinator.toml").expanduser()


# -- what the connection is made with ---------------------------------------------------------------------------


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
    """How one process connects: what `agentbus.bus.jetstream.connect` takes."""

    urls: tuple[ServerUrl, ...]
    name: str = "agentbus"
    credentials: Credentials = Credentials()
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 3.0
    reconnect_wait_s: float = 2.0
    max_reconnect_attempts: int = -1

    @property
    def needs_tls(self) -> bool:
        """Whether no server is spoken to without TLS, whatever its URL says: whoever configures TLS wants it."""
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
    first = next((url for url in urls if url.user), urls[0])
    credentials = Credentials(nats.user or first.user, first.password)
    named = next(((key, file) for key in SECRET_FILES if (file := getattr(nats, key)) is not None), None)
    if named is not None:
        credentials = _from_file(*named, nats.user)
    elif first.user is not None and first.password is None:
        credentials = Credentials(token=first.user)
    for file in (nats.ca_file, nats.cert_file, nats.key_file):
        if file is not None and not _is_file(file):
            raise ConfigError(f"{file} does not exist")
    identity = subjects.agent_id(credentials.user) if subjects.is_agent_id(credentials.user) else agent
    return ConnectionSettings(
        urls=urls,
        name=name,
        credentials=credentials,
        ca_file=nats.ca_file,
        cert_file=nats.cert_file,
        key_file=nats.key_file,
        tls_first=nats.tls_first,
        inbox_prefix=nats.inbox_prefix or subjects.inbox_prefix(identity),
        reconnect_wait_s=reconnect_wait_s,
        max_reconnect_attempts=max_reconnect_attempts,
    )


def _from_file(key: str, file: Path, user: str | None) -> Credentials:
    match key:
        case "password_file":
            return Credentials(user, read_secret(file), key=key, file=file)
        case "token_file":
            return Credentials(token=read_secret(file), key=key, file=file)
        case "nkey_file":
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
        return path.read_text(encoding=_ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the secret in {path}: {_reason(error)}") from None


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


# -- loading ----------------------------------------------------------------------------------------------------

_C = TypeVar("_C", bound=Section)


def load_worker(path: Path | None = None) -> tuple[WorkerConfig, list[str]]:
    """Read a worker's configuration and what a person should be warned of.

    Without a path the first of `worker_files()` that exists is taken. No environment variable changes anything.

    Raises:
        ConfigError: if there is no file, it is not TOML, or a key or value is wrong; names the place and the fix.
    """
    if path is None:
        path = next((file for file in worker_files() if _is_file(file)), None)
    if path is None:
        looked = ", ".join(str(file) for file in worker_files())
        raise ConfigError(f"no worker configuration found (looked at {looked}); write one or name it with --config")
    return _load(WorkerConfig, path)


def load_coordinator(
    *, nats_url: str | None = None, path: Path | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[CoordinatorConfig, list[str]]:
    """Read the configuration of a coordinator and what a person should be warned of.

    The first of these gives the connection: `nats_url`, `path`, the variable AGENTBUS_NATS_URL,
    `~/.agentbus/coordinator.toml`, the local default. A URL replaces the `[nats]` section, not the others.

    Raises:
        ConfigError: if a file cannot be used, or a URL cannot be read.
    """
    config, warnings = CoordinatorConfig(), list[str]()
    if path is not None:
        config, warnings = _load(CoordinatorConfig, path)
    elif _is_file(coordinator_file()):
        config, warnings = _load(CoordinatorConfig, coordinator_file())
    from_environment = environ.get(URL_VARIABLE) if path is None else None
    url = nats_url or from_environment
    if url:
        config = config.model_copy(update={"nats": NatsSection(url=url)})
        warnings = list[str]()
        if nats_url and (secret := secret_in(nats_url)):
            warnings.append(
                f"a {secret} in --nats-url shows in the process list and in the shell's history; "
                f"put the URL into {coordinator_file()} or into {URL_VARIABLE}"
            )
    parse_urls(config.nats.url)
    return config, warnings


def secret_in(text: str) -> Literal["password", "token"] | None:
    """What in a URL, or several with commas, must not stand where others can read it.

    Raises:
        ConfigError: it cannot be read.
    """
    servers = parse_urls(text)
    if any(server.password for server in servers):
        return "password"
    return "token" if any(server.user and server.password is None for server in servers) else None


def _load(model: type[_C], path: Path) -> tuple[_C, list[str]]:
    try:
        text = path.read_bytes().decode(_ENCODING)
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_explain(model, error))}") from None
    return config, list(_exposed(path, values))


def _exposed(path: Path, values: Mapping[str, Any]) -> Iterable[str]:
    nats = cast("dict[str, Any]", values.get("nats", {}))
    secret_files = [Path(str(nats[key])).expanduser() for key in (*SECRET_FILES, "key_file") if key in nats]
    if secret_in(str(nats.get("url", DEFAULT_URL))):
        secret_files.append(path)
    for file in secret_files:
        yield from exposure(file)


def exposure(file: Path) -> Iterable[str]:
    """The warning that a file with a secret deserves when others can read it, if it does."""
    try:
        mode = file.stat().st_mode if os.name == "posix" else 0
    except OSError:
        return  # whoever reads it says why it cannot be read
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        yield f"{file} holds a secret and can be read by other users; run: chmod 600 {shlex.quote(str(file))}"


def _is_file(file: Path) -> bool:
    """Whether there is such a file. One that nobody can tell of is an error: what it says might be what counts."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"cannot look for {file}: {_reason(error)}") from None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"


def _explain(model: type[Section], error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        section, key, *_ = [*(str(part) for part in fault["loc"]), "", ""]
        if fault["type"] == "extra_forbidden":
            yield _unknown_key(model, section, key)
        elif fault["type"] == "missing":
            yield f"[{section}] {key} is missing" if key else f"the section [{section}] is missing"
        else:
            place = f"[{section}] {key}: " if key else f"[{section}] " if section else ""
            yield place + fault["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _unknown_key(model: type[Section], section: str, key: str) -> str:
    import difflib  # noqa: PLC0415  # only when there is an error to explain

    known: dict[str, tuple[str, ...]] = {
        name: tuple(cast("type[Section]", info.annotation).model_fields) for name, info in model.model_fields.items()
    }
    if not key:
        home = next((name for name, keys in known.items() if section in keys), None)
        if home:
            return f"unknown section or key {section!r} at the top; it belongs to [{home}]"
        close = difflib.get_close_matches(section.lower(), known, n=1, cutoff=0.0)
        return f"unknown section or key {section!r} at the top; the nearest known section is [{close[0]}]"
    elsewhere = [name for name, keys in known.items() if key in keys]
    if elsewhere:
        return f"[{section}] has no key {key!r}; it belongs to [{elsewhere[0]}]"
    close = difflib.get_close_matches(key.lower(), known[section], n=1, cutoff=0.0)
    return f"[{section}] has no key {key!r}; the nearest known key is {close[0]!r}"
