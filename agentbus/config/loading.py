"""Configuration: TOML files for workers and coordinators, read in a fixed order and checked key by key.

Secrets come from a file, or from a file that it names; they never show in a repr, an error or a log line.
"""

import os
import shlex
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from pydantic import ValidationError

from agentbus.config.home import in_home, in_home_if_any
from agentbus.config.schema import (
    DEFAULT_URL,
    SECRET_FILES,
    SECRET_FILES_OF_QUEUE,
    CoordinatorConfig,
    CoordinatorNatsSection,
    Section,
)
from agentbus.config.text_files import ENCODING, is_file, reason_of
from agentbus.config.urls import parse_urls
from agentbus.errors import ConfigError
from agentbus.protocol.validation import faults

if TYPE_CHECKING:
    from agentbus.config.worker_schema import WorkerConfig

URL_VARIABLE: Final = "AGENTBUS_NATS_URL"
COORDINATOR_FILE: Final = "~/.agentbus/coordinator.toml"
ADMINISTRATOR_FILE: Final = "~/.agentbus/bus/admin.toml"
_OTHER_FILES: Final = {
    "agent": "the configuration of a worker",
    "coordinator": "the configuration of a coordinator",
    "bundle": "a bundle, which `agentbus worker init` or `agentbus coordinator init` turns into a configuration",
    "bus": "the list of a bus's parties; its administrator has admin.toml beside it",
}
"""What has a section of this name, and is given in place of another file now and then."""


def worker_files() -> tuple[Path, ...]:
    """Where a worker looks for its configuration, first match first."""
    of_user = in_home_if_any("~/.agentbus/config.toml")
    return (Path("agentbus.toml"), *([of_user] if of_user else []), Path("/etc/agentbus/agentbus.toml"))


def worker_file() -> Path | None:
    """The first of `worker_files()` that exists.

    Raises:
        ConfigError: one of them cannot be examined: it might be the one that counts.
    """
    return next((file for file in worker_files() if is_file(file)), None)


def coordinator_file() -> Path | None:
    """The file that the command line and the MCP server take if none is named; None if there is no such file.

    Raises:
        ConfigError: it cannot be examined.
    """
    file = in_home_if_any(COORDINATOR_FILE)
    return file if file is not None and is_file(file) else None


def administrator_file(nats_url: str | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file that commands of the administrator take if none is named: that of the bus folder on this machine.

    None if there is none, or if `nats_url` or the variable AGENTBUS_NATS_URL says which bus is meant.

    Raises:
        ConfigError: it cannot be examined.
    """
    if nats_url or environ.get(URL_VARIABLE):
        return None
    file = in_home_if_any(ADMINISTRATOR_FILE)
    return file if file is not None and is_file(file) else None


# -- loading ----------------------------------------------------------------------------------------------------

_C = TypeVar("_C", bound=Section)


def load_worker(path: Path | None = None) -> "tuple[WorkerConfig, list[str]]":
    """Read a worker's configuration and what a person should be warned of.

    Without a path the first of `worker_files()` that exists is taken. No environment variable changes anything.

    Raises:
        ConfigError: if there is no file, it is not TOML, or a key or value is wrong; names the place and the fix.
    """
    from agentbus.config.worker_schema import WorkerConfig  # noqa: PLC0415  # coordinators, which start often, need none

    if path is None:
        path = worker_file()
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
    file = path or coordinator_file()
    config, warnings = _load(CoordinatorConfig, file) if file is not None else (CoordinatorConfig(), list[str]())
    url = nats_url or (environ.get(URL_VARIABLE) if path is None else None)
    if not url and file is None:
        warnings += _of_a_worker_alone()
    if url:
        config = config.model_copy(update={"nats": CoordinatorNatsSection(url=url)})
        warnings = list[str]()
        if nats_url and (secret := secret_in(nats_url)):
            warnings.append(
                f"a {secret} in --nats-url shows in the process list and in the shell's history; "
                f"put the URL into {in_home_if_any(COORDINATOR_FILE) or COORDINATOR_FILE} or into {URL_VARIABLE}"
            )
    parse_urls(config.nats.url)
    return config, warnings


def _of_a_worker_alone() -> Iterable[str]:
    """Yield a warning if this machine has a worker of another bus than the local one, which is about to be taken."""
    with suppress(ConfigError):  # it cannot be read, which is for the worker to say
        if (file := worker_file()) is None:
            return
        nats = _values(file).get("nats")
        url = cast("dict[str, Any]", nats).get("url") if isinstance(nats, dict) else None
        if isinstance(url, str) and parse_urls(url) != parse_urls(DEFAULT_URL):
            yield (
                f"this machine has the configuration of a worker only ({file}), of another bus; this is for the local "
                f"bus, {DEFAULT_URL}. For the other one, name it by --nats-url or --config, or join it as a coordinator"
            )


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
    values = _values(path)
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        faults_found = _of_another_file(model, values) or _explain(model, error)
        raise ConfigError(f"{path}: {'; '.join(faults_found)}") from None
    return config, list(_exposed(path, values))


def _of_another_file(model: type[Section], values: Mapping[str, Any]) -> list[str]:
    """Say which file this is, if it is not of the kind that was asked for."""
    own = set(_OTHER_FILES) & set(model.model_fields)
    other = [name for name in _OTHER_FILES if name in values and name not in own]
    if not other or own & set(values):
        return []
    wanted = "worker" if "agent" in own else "coordinator"
    return [
        f"unknown section or key {other[0]!r} at the top: this is {_OTHER_FILES[other[0]]}",
        f"name the configuration of a {wanted}",
    ]


def _values(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # many commands read no file

    try:
        return tomllib.loads(path.read_bytes().decode(ENCODING))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {reason_of(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _exposed(path: Path, values: Mapping[str, Any]) -> Iterable[str]:
    nats = cast("dict[str, Any]", values.get("nats", {}))
    secret_files = [
        in_home(str(nats[key])) for key in (*SECRET_FILES, *SECRET_FILES_OF_QUEUE, "key_file") if key in nats
    ]
    if secret_in(str(nats.get("url", DEFAULT_URL))) or _has_secrets_of_servers(values):
        secret_files.append(path)
    for file in secret_files:
        yield from exposure(file)


def _has_secrets_of_servers(values: Mapping[str, Any]) -> bool:
    """Whether an agent's MCP servers have variables or headers, which are keys as a rule."""
    servers = cast("dict[str, Any]", values.get("agent", {})).get("mcp_servers", {})
    return any(server.get("env") or server.get("headers") for server in servers.values())


def exposure(file: Path) -> Iterable[str]:
    """The warning that a file with a secret deserves when others can read it, if it does."""
    try:
        mode = file.stat().st_mode if os.name == "posix" else 0
    except OSError:
        return  # reading it reports why it cannot be read
    if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        yield f"{file} holds a secret and can be read by other users; run: chmod 600 {shlex.quote(str(file))}"


def _explain(model: type[Section], error: ValidationError) -> Iterable[str]:
    for fault in faults(error):
        section, key, *_ = [*fault.place, "", ""]
        if fault.kind == "extra_forbidden":
            yield _unknown_key(model, section, key)
            continue
        if not key and section not in model.model_fields and (home := _home_of(section, _keys(model))):
            section, key = home, section  # the default of a section that is left out is wrong here
        if fault.kind == "missing":
            yield f"[{section}] {key} is missing" if key else f"the section [{section}] is missing"
        else:
            place = f"[{section}] {key}: " if key else f"[{section}] " if section else ""
            yield place + fault.text.removeprefix("Input ")


def _keys(model: type[Section]) -> dict[str, tuple[str, ...]]:
    """Return the keys of each section."""
    return {
        name: tuple(cast("type[Section]", info.annotation).model_fields) for name, info in model.model_fields.items()
    }


def _home_of(key: str, known: Mapping[str, tuple[str, ...]]) -> str | None:
    return next((name for name, keys in known.items() if key in keys), None)


def _unknown_key(model: type[Section], section: str, key: str) -> str:
    import difflib  # noqa: PLC0415  # only when there is an error to explain

    known = _keys(model)
    if not key:
        if home := _home_of(section, known):
            return f"unknown section or key {section!r} at the top; it belongs to [{home}]"
        close = difflib.get_close_matches(section.lower(), known, n=1, cutoff=0.0)
        return f"unknown section or key {section!r} at the top; the nearest known section is [{close[0]}]"
    elsewhere = [name for name, keys in known.items() if key in keys]
    if elsewhere:
        return f"[{section}] has no key {key!r}; it belongs to [{elsewhere[0]}]"
    close = difflib.get_close_matches(key.lower(), known[section], n=1, cutoff=0.0)
    return f"[{section}] has no key {key!r}; the nearest known key is {close[0]!r}"
