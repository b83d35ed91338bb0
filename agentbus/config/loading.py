"""Configuration: TOML files for workers and coordinators, read in a fixed order and checked key by key.

Secrets come from a file, or from a file that it names; they never show in a repr, an error or a log line.
"""

import os
import shlex
import stat
from collections.abc import Iterable, Mapping
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
    config, warnings = CoordinatorConfig(), list[str]()
    if path is not None:
        config, warnings = _load(CoordinatorConfig, path)
    elif (found := coordinator_file()) is not None:
        config, warnings = _load(CoordinatorConfig, found)
    from_environment = environ.get(URL_VARIABLE) if path is None else None
    url = nats_url or from_environment
    if url:
        config = config.model_copy(update={"nats": CoordinatorNatsSection(url=url)})
        warnings = list[str]()
        if nats_url and (secret := secret_in(nats_url)):
            warnings.append(
                f"a {secret} in --nats-url shows in the process list and in the shell's history; "
                f"put the URL into {COORDINATOR_FILE} or into {URL_VARIABLE}"
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
    import tomllib  # noqa: PLC0415  # many commands read no file

    try:
        text = path.read_bytes().decode(ENCODING)
        values = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {reason_of(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {'; '.join(_explain(model, error))}") from None
    return config, list(_exposed(path, values))


def _exposed(path: Path, values: Mapping[str, Any]) -> Iterable[str]:
    nats = cast("dict[str, Any]", values.get("nats", {}))
    secret_files = [
        in_home(str(nats[key])) for key in (*SECRET_FILES, *SECRET_FILES_OF_QUEUE, "key_file") if key in nats
    ]
    if secret_in(str(nats.get("url", DEFAULT_URL))):
        secret_files.append(path)
    for file in secret_files:
        yield from exposure(file)


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
        elif fault.kind == "missing":
            yield f"[{section}] {key} is missing" if key else f"the section [{section}] is missing"
        else:
            place = f"[{section}] {key}: " if key else f"[{section}] " if section else ""
            yield place + fault.text.removeprefix("Input ")


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
