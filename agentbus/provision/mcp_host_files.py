"""Writes the entry for the agentbus MCP server into the configuration file of an MCP host.

It knows where each host keeps that file and in which format.
"""

import json
import os
import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from agentbus.config.atomic_files import replace_file, why_not_written
from agentbus.config.home import in_home
from agentbus.errors import HostError

NAME: Final = "agentbus"
_PROGRAM: Final = "agentbus-mcp"
_STARTUP_S: Final = 30
"""How long Codex waits for the server. Its default of ten seconds is too short for a first start with uvx."""

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """An MCP host.

    Attributes:
        key: the key in its file under which the MCP servers stand.
        user: its file for one user, by `sys.platform`; `""` stands for all other platforms.
        project: its file in a project; None if the host has none.
        more: the keys of an entry besides the command and its environment.
    """

    title: str
    key: str
    user: Mapping[str, str]
    project: str | None
    more: Mapping[str, Any]
    form: Literal["json", "toml"] = "json"

    def user_file(self) -> Path:
        """Return the file in which the host keeps the MCP servers of this user."""
        if self.key == "mcp_servers" and os.environ.get("CODEX_HOME"):
            return Path(os.environ["CODEX_HOME"]) / "config.toml"
        return in_home(os.path.expandvars(self.user.get(sys.platform, self.user[""])))


_STDIO: Final = {"type": "stdio"}
HOSTS: Final[Mapping[str, Host]] = {
    "claude-code": Host("Claude Code", "mcpServers", {"": "~/.claude.json"}, ".mcp.json", _STDIO),
    "codex": Host(
        "Codex",
        "mcp_servers",
        {"": "~/.codex/config.toml"},
        ".codex/config.toml",
        # Without `required`, Codex begins its first turn before the tools are there.
        {"startup_timeout_sec": _STARTUP_S, "required": True},
        "toml",
    ),
    "vscode": Host(
        "VS Code",
        "servers",
        {
            "": "~/.config/Code/User/mcp.json",
            "darwin": "~/Library/Application Support/Code/User/mcp.json",
            "win32": r"%APPDATA%\Code\User\mcp.json",
        },
        ".vscode/mcp.json",
        _STDIO,
    ),
    "claude-desktop": Host(
        "Claude Desktop",
        "mcpServers",
        {
            "": "~/.config/Claude/claude_desktop_config.json",
            "darwin": "~/Library/Application Support/Claude/claude_desktop_config.json",
            "win32": r"%APPDATA%\Claude\claude_desktop_config.json",
        },
        None,
        {},
    ),
    "cursor": Host("Cursor", "mcpServers", {"": "~/.cursor/mcp.json"}, ".cursor/mcp.json", _STDIO),
}


def program() -> list[str]:
    """Return a command for the MCP server that works for this user, whatever the PATH of the host is."""
    suffix = ".exe" if sys.platform == "win32" else ""
    found = Path(sysconfig.get_path("scripts")) / f"{_PROGRAM}{suffix}"
    # uvx puts its environments into a cache: they are gone once that is cleaned.
    in_cache = any(re.fullmatch(r"archive-v\d+|environments-v\d+", part) for part in found.parts)
    return [str(found)] if found.is_file() and not in_cache else shared_program()


def shared_program() -> list[str]:
    """Return a command for a file that several people share: it has no path of one machine."""
    return ["uvx", _PROGRAM]


def entry(host: Host, command: list[str], *, config: Path | None = None, nats_url: str | None = None) -> Entry:
    """Return the entry for agentbus, with its keys in the order in which they are written.

    Raises:
        HostError: the URL holds a secret.
        ConfigError: the URL cannot be read.
    """
    # The command line names the hosts without loading it.
    from agentbus.config.loading import URL_VARIABLE, secret_in  # noqa: PLC0415

    if nats_url and (secret := secret_in(nats_url)):
        raise HostError(
            f"--nats-url holds a {secret}, and an entry must not: put the [nats] section with user and password_file "
            "into a file, and name that with --config"
        )
    name, *args = command
    args += ["--config", str(config)] if config else []
    made: Entry = {**({"type": host.more["type"]} if "type" in host.more else {}), "command": name, "args": args}
    if nats_url:
        made["env"] = {URL_VARIABLE: nats_url}
    return {**made, **{key: value for key, value in host.more.items() if key != "type"}}


def alone(host: Host, made: Entry) -> str:
    """Return a file that holds only the entry."""
    return with_entry(host, "", made)


def with_entry(host: Host, text: str, made: Entry) -> str:
    """Return the text of a host's file with the entry added; everything else stays as it is.

    In an entry that exists, the command, its arguments and the environment variables of the same name are replaced.

    Raises:
        HostError: the host could not read this file either.
    """
    return _with_toml(host, text, made) if host.form == "toml" else _with_json(host, text, made)


def write_entry(file: Path, host: Host, made: Entry) -> Literal["made", "updated", "up to date"]:
    """Put the entry into a host's file, which keeps its mode and its owner; returns what that meant.

    Raises:
        HostError: the host could not read this file either, or it cannot be written. It stays as it is.
    """
    file = file.resolve()  # a link to a file that is kept elsewhere stays one
    try:
        old = file.read_bytes().decode("utf-8-sig") if file.exists() else ""
        new = with_entry(host, old, made)
        if new == old:
            return "up to date"
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, new.encode(), mode=None)
    except UnicodeDecodeError:
        raise HostError(f"{file} is not text in UTF-8; add the entry by hand") from None
    except HostError as error:
        raise HostError(f"{file}: {error}") from None
    except OSError as error:
        raise HostError(f"{file} cannot be written: {why_not_written(error)}; or add the entry by hand") from None
    return "updated" if old else "made"


def _with_json(host: Host, text: str, made: Entry) -> str:
    try:
        content: Any = json.loads(text, parse_constant=_refuse) if text.strip() else {}
    except ValueError as error:
        raise HostError(f"it is not plain JSON ({error}); add the entry by hand") from None
    if not isinstance(content, dict):
        raise HostError("it is not a JSON object; add the entry by hand")
    servers = cast("dict[str, Any]", content).setdefault(host.key, {})
    if not isinstance(servers, dict):
        raise HostError(f"its {host.key} is not an object; add the entry by hand")
    servers[NAME] = _merged(cast("dict[str, Any]", servers).get(NAME), made)
    indent = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    written = json.dumps(content, indent=indent[1] if indent else 2, ensure_ascii=False)
    return written + ("\n" if not text or text.endswith("\n") else "")


def _with_toml(host: Host, text: str, made: Entry) -> str:
    import tomlkit  # noqa: PLC0415  # the other hosts need none of it
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    try:
        content = tomlkit.parse(text)
        servers: Any = content.setdefault(host.key, tomlkit.table(is_super_table=True))
        if not isinstance(servers, dict):
            raise HostError(f"its {host.key} is not a table; add the entry by hand")
        there: Any = cast("dict[str, Any]", servers).get(NAME)
        if _is_stdio(there):
            for key, value in _merged(there, made).items():
                if there.get(key) != value:
                    there[key] = value
        else:
            servers[NAME] = made
        return tomlkit.dumps(content)  # pyright: ignore[reportUnknownMemberType]
    except TOMLKitError as error:
        raise HostError(f"it is not valid TOML ({error}); repair it, or add the entry by hand") from None


def _is_stdio(there: Any) -> bool:
    """Return whether an entry starts a command; an entry of another kind is replaced as a whole."""
    return isinstance(there, dict) and "command" in there


def _merged(there: Any, made: Entry) -> Entry:
    if not _is_stdio(there):
        return made
    merged: Entry = {**there, **made}
    if "env" in there and isinstance(there["env"], dict):
        merged["env"] = {**there["env"], **made.get("env", {})}
    return merged


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")
