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
from typing import Annotated, Any, Final, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from agentbus import subjects
from agentbus.errors import ConfigError, InvalidIdError
from agentbus.messages import MAX_TASK_BYTES

DEFAULT_URL: Final = "nats://127.0.0.1:7422"
DEFAULT_PORT: Final = 4222
URL_VARIABLE: Final = "AGENTBUS_NATS_URL"
SAMPLE_PASSWORD: Final = "CHANGE-ME"  # noqa: S105  # the point is that it is none
"""How the passwords in the shipped examples begin; no tool connects with one."""
INPUT_PLACEHOLDER: Final = "{input}"
INPUT_FILE_PLACEHOLDER: Final = "{input_file}"
TASK_ID_PLACEHOLDER: Final = "{task_id}"
WORKDIR_PLACEHOLDER: Final = "{workdir}"


def worker_files() -> tuple[Path, ...]:
    """Where a worker looks for its configuration, first match first."""
    return (Path("agentbus.toml"), Path("~/.agentbus/config.toml").expanduser(), Path("/etc/agentbus/agentbus.toml"))


def coordinator_file() -> Path:
    """Where the command line and the MCP server look for theirs."""
    return Path("~/.agentbus/coordinator.toml").expanduser()


# -- server addresses -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """One server of the bus. `str()` and `repr()` leave the credentials out."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def tls(self) -> bool:
        """Whether this server is only spoken to over TLS."""
        return self.scheme == "tls"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_urls(text: str) -> tuple[ServerUrl, ...]:
    """Read one URL, or several separated by commas: `nats://host:4222` or `tls://user:password@host`.

    User and password are percent-decoded. A user without a password is a token.

    Raises:
        ConfigError: for another scheme, a missing host, a bad port, a password from the shipped examples.
    """
    urls = tuple(_parse_url(part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise ConfigError("the NATS URL is empty; write it as nats://host:4222 or tls://host:4222")
    return urls


def _parse_url(text: str) -> ServerUrl:
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        host, port = parts.hostname or "", parts.port
        if port == 0:
            raise ValueError("no server listens on port 0")
    except ValueError:
        # Not quoted: what stands where the port should be is often a piece of a password.
        raise ConfigError(
            "the NATS URL cannot be read: the port must be a number from 1 to 65535, and '/', '?', '#', '@', ',' and "
            "'[' in a password must be percent-encoded; write it as nats://host:4222"
        ) from None
    if parts.scheme not in ("nats", "tls"):
        raise ConfigError(f"the NATS URL begins with {parts.scheme!r}; use nats:// or, with TLS, tls://")
    if not host:
        raise ConfigError("the NATS URL names no host; write it as nats://host:4222 or tls://host:4222")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ConfigError("the NATS URL goes on after the port; percent-encode '/', '?', '#' and '@' in passwords")
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password is not None else None
    _refuse_sample(password or user)
    return ServerUrl(parts.scheme, host, port or DEFAULT_PORT, user, password)


def _refuse_sample(secret: str | None) -> None:
    if secret is not None and secret.startswith(SAMPLE_PASSWORD):
        raise ConfigError("the password is the one from the shipped example; set a password of your own")


# -- sections ---------------------------------------------------------------------------------------------------


def _reraise(check: Any, text: str) -> str:
    try:
        return check(text)
    except InvalidIdError as error:
        raise ValueError(str(error)) from None


def _inbox_of(subject: str) -> str:
    if subjects.agent_of(subject, "results") is None:
        raise ValueError("must be the inbox of an agent: agent.<id>.results")
    return subject


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"the home folder in {str(path)!r} is not known") from error


AgentId = Annotated[str, AfterValidator(lambda text: _reraise(subjects.configured_agent_id, text))]
Name = Annotated[str, AfterValidator(lambda text: _reraise(subjects.stream_name, text))]
FilePath = Annotated[Path, AfterValidator(_home)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NatsSection(_Section):
    """How to reach the bus and who to be there."""

    url: str = Field(repr=False)
    user: str | None = None
    password_file: FilePath | None = None
    token_file: FilePath | None = None
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    inbox_prefix: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "NatsSection":
        if self.password_file and not self.user:
            raise ValueError("password_file needs user")
        if self.password_file and self.token_file:
            raise ValueError("password_file and token_file exclude each other")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        return self


class WorkerNatsSection(NatsSection):
    """The same for a worker, with the names of what it consumes."""

    stream: Name = subjects.TASKS_STREAM
    task_subject: str | None = None
    default_result_subject: Annotated[str, AfterValidator(_inbox_of)] = subjects.results(subjects.COORDINATOR)
    durable: Name | None = None


def _split_command(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
    return value


class AgentSection(_Section):
    """Which agent this is and the command that it runs."""

    id: AgentId
    chat_cmd: Annotated[tuple[str, ...], BeforeValidator(_split_command)]
    extra_instruction: str = ""
    prompt_via: Literal["argv", "stdin", "file"] = "argv"
    description: Annotated[str, Field(max_length=500)] = ""

    @model_validator(mode="after")
    def _check(self) -> "AgentSection":
        if not self.chat_cmd or not self.chat_cmd[0].strip():
            raise ValueError("chat_cmd is empty; name the agent command and its arguments")
        wanted = {"argv": INPUT_PLACEHOLDER, "file": INPUT_FILE_PLACEHOLDER, "stdin": None}
        for via, placeholder in wanted.items():
            if placeholder is None:
                continue
            present = any(placeholder in word for word in self.chat_cmd[1:])
            if via == self.prompt_via and not present:
                raise ValueError(
                    f"chat_cmd has no {placeholder} among its arguments: the prompt would go nowhere"
                    f' (prompt_via is "{via}")'
                )
            if via != self.prompt_via and present:
                raise ValueError(f'chat_cmd has {placeholder}, which goes with prompt_via = "{via}"')
        return self


def _retry_reason(text: str) -> str:
    if text in ("timeout", "idle", "lost"):
        return text
    kind, _, code = text.partition(":")
    if kind == "exit" and code in {str(number) for number in range(1, 256)}:
        return text
    raise ValueError(f"{text!r} is no reason to retry; use lost, timeout, idle, or exit:CODE with a code from 1 to 255")


class WorkerSection(_Section):
    """How tasks are run."""

    task_timeout_seconds: Seconds = 1800
    max_task_bytes: Annotated[int, Field(gt=0)] = MAX_TASK_BYTES
    inline_output_bytes: Annotated[int, Field(ge=1024, le=16_777_216)] = 65_536
    max_output_bytes: Annotated[int, Field(ge=1024)] = 1_073_741_824
    idle_timeout_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    retry_on: tuple[Annotated[str, AfterValidator(_retry_reason)], ...] = ("lost",)
    retry_backoff_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10
    workdir: FilePath | None = None
    keep_workdir: bool = True
    concurrency: Annotated[int, Field(ge=1, le=256)] = 1
    kill_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5
    drain_timeout_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30
    reconnect_time_wait_seconds: Seconds = 2
    max_reconnect_attempts: Annotated[int, Field(ge=-1)] = -1
    state_dir: FilePath = Field(default=Path("~/.agentbus/state"), validate_default=True)


class LogSection(_Section):
    """Where the worker's log goes, besides stderr."""

    dir: FilePath = Field(default=Path("~/.agentbus/logs"), validate_default=True)
    max_bytes: Annotated[int, Field(gt=0)] = 104_857_600
    backup_count: Annotated[int, Field(ge=0)] = 5


class CoordinatorSection(_Section):
    """Who the coordinator is: the sender of its tasks and the inbox that it reads."""

    id: AgentId = subjects.COORDINATOR


class WorkerConfig(_Section):
    """Everything that `agentbus worker run` needs."""

    agent: AgentSection
    worker: WorkerSection = Field(default_factory=WorkerSection)
    nats: WorkerNatsSection
    log: LogSection = Field(default_factory=LogSection)

    @model_validator(mode="after")
    def _check(self) -> "WorkerConfig":
        wanted = subjects.tasks(self.agent.id)
        if self.nats.task_subject not in (None, wanted):
            raise ValueError(
                f"task_subject must be {wanted} for the agent {self.agent.id}; "
                "workers that share an agent's tasks take its id"
            )
        return self

    @property
    def durable(self) -> str:
        """The durable consumer whose tasks this worker takes."""
        return self.nats.durable or subjects.durable(self.agent.id)

    @property
    def default_inbox(self) -> str:
        """The agent whose inbox gets results that no valid id in the task claims."""
        return subjects.agent_of(self.nats.default_result_subject, "results") or subjects.COORDINATOR


class CoordinatorConfig(_Section):
    """Everything that the command line and the MCP server need."""

    nats: NatsSection = NatsSection(url=DEFAULT_URL)
    coordinator: CoordinatorSection = CoordinatorSection()


# -- what the connection is made with ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who to be on the bus. `repr()` shows the user at the most."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How one process connects: what `agentbus.bus.connect` takes."""

    urls: tuple[ServerUrl, ...]
    name: str = "agentbus"
    credentials: Credentials = Credentials()
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 3.0
    reconnect_wait_s: float = 2.0
    max_reconnect_attempts: int = -1

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
    if nats.password_file:
        credentials = Credentials(nats.user, _secret(nats.password_file))
    elif nats.token_file:
        credentials = Credentials(token=_secret(nats.token_file))
    elif first.user is not None and first.password is None:
        credentials = Credentials(token=first.user)
    for file in (nats.ca_file, nats.cert_file, nats.key_file):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} does not exist")
    identity = subjects.agent_id(credentials.user) if subjects.is_agent_id(credentials.user) else agent
    return ConnectionSettings(
        urls=urls,
        name=name,
        credentials=credentials,
        ca_file=nats.ca_file,
        cert_file=nats.cert_file,
        key_file=nats.key_file,
        inbox_prefix=nats.inbox_prefix or f"_INBOX_{identity}",
        reconnect_wait_s=reconnect_wait_s,
        max_reconnect_attempts=max_reconnect_attempts,
    )


def _secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the secret in {path}: {_reason(error)}") from None
    if not secret:
        raise ConfigError(f"{path} is empty; it must hold the secret on its first line")
    _refuse_sample(secret)
    return secret


# -- loading ----------------------------------------------------------------------------------------------------

_C = TypeVar("_C", bound=_Section)


def load_worker(path: Path | None = None) -> tuple[WorkerConfig, list[str]]:
    """Read a worker's configuration and what a person should be warned of.

    Without a path the first of `worker_files()` that exists is taken. No environment variable changes anything.

    Raises:
        ConfigError: if there is no file, it is not TOML, or a key or value is wrong; names the place and the fix.
    """
    if path is None:
        path = next((file for file in worker_files() if file.is_file()), None)
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
    elif coordinator_file().is_file():
        config, warnings = _load(CoordinatorConfig, coordinator_file())
    from_environment = environ.get(URL_VARIABLE) if path is None else None
    url = nats_url or from_environment
    if url:
        config = config.model_copy(update={"nats": NatsSection(url=url)})
        warnings = list[str]()
        if nats_url and (secret := _secret_in(nats_url)):
            warnings.append(
                f"a {secret} in --nats-url shows in the process list and in the shell's history; "
                f"put the URL into {coordinator_file()} or into {URL_VARIABLE}"
            )
    parse_urls(config.nats.url)
    return config, warnings


def _secret_in(text: str) -> Literal["password", "token"] | None:
    servers = parse_urls(text)
    if any(server.password for server in servers):
        return "password"
    return "token" if any(server.user and server.password is None for server in servers) else None


def _load(model: type[_C], path: Path) -> tuple[_C, list[str]]:
    try:
        text = path.read_bytes().decode()
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
    secret_files = [Path(str(nats[key])).expanduser() for key in ("password_file", "token_file") if key in nats]
    if _secret_in(str(nats.get("url", DEFAULT_URL))):
        secret_files.append(path)
    for file in secret_files:
        if os.name == "posix" and file.is_file() and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield f"{file} holds a secret and can be read by other users; run: chmod 600 {shlex.quote(str(file))}"


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"


def _explain(model: type[_Section], error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        section, key, *_ = [*(str(part) for part in fault["loc"]), "", ""]
        if fault["type"] == "extra_forbidden":
            yield _unknown_key(model, section, key)
        elif fault["type"] == "missing":
            yield f"[{section}] {key} is missing" if key else f"the section [{section}] is missing"
        else:
            place = f"[{section}] {key}: " if key else f"[{section}] " if section else ""
            yield place + fault["msg"].removeprefix("Value error, ").removeprefix("Input ")


def _unknown_key(model: type[_Section], section: str, key: str) -> str:
    import difflib  # noqa: PLC0415  # only when there is an error to explain

    known: dict[str, tuple[str, ...]] = {
        name: tuple(cast("type[_Section]", info.annotation).model_fields) for name, info in model.model_fields.items()
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
