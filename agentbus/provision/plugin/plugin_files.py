"""The files of the plugin: one folder that Claude Code, Codex, Gemini CLI and hosts of Agent Plugins 1.0 install.

Each host reads the files of its own form, and all name the same server and the same skill. Nothing here depends on the
time or the machine but for the command of the server, so the same version makes the same folder.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentbus.provision.assets import asset
from agentbus.provision.mcp_host_files import program
from agentbus.provision.services.worker_service import program_of
from agentbus.version import __version__

NAME: Final = "agentbus"
MARK: Final = "plugin.json"
"""The file by which a folder is known as one of ours."""
_HOME: Final = "https://github.com/agentbus-mcp/agentbus-mcp"
_DESCRIPTION: Final = "Hand long tasks to agents on other machines and get every result back."
_AUTHOR: Final = {"name": "agentbus", "url": _HOME}
_LICENSE: Final = "Apache-2.0"
_KEYWORDS: Final = ["mcp", "agents", "tasks", "delegation", "nats"]
_SCHEMAS: Final = "https://agent-plugins.org/schemas/1.0.0"
_STARTUP_S: Final = 30
"""How long a host should wait for the server: a first start with uvx downloads it."""
_TITLE: Final = "results of tasks given over agentbus"


@dataclass(frozen=True, slots=True)
class Commands:
    """How hosts start what the plugin needs.

    Attributes:
        server: the words of the MCP server. The first is a name, not a path: Agent Plugins 1.0 allows no other.
        watch: the words of `agentbus`, before `watch`.
        bus: the options that name the bus, for both.
        portable: whether they serve on other machines as well.
    """

    server: Sequence[str]
    watch: Sequence[str]
    bus: Sequence[str] = ()
    portable: bool = False


def portable(bus: Sequence[str] = ()) -> Commands:
    """Return commands for every machine that has uv: of this version, from the package index."""
    package = f"agentbus-mcp=={__version__}"
    return Commands(["uvx", "--from", package, "agentbus-mcp"], ["uvx", "--from", package, NAME], bus, portable=True)


def of_this_installation(bus: Sequence[str] = ()) -> Commands:
    """Return commands for this user: of the installation that runs now, whatever the PATH of the host is."""
    server = program()
    if Path(server[0]).is_absolute():
        server = ["cmd", "/c", *server] if sys.platform == "win32" else ["env", *server]
    return Commands(server, [str(program_of())], bus)


def contents(commands: Commands) -> dict[str, bytes]:
    """Return the files of the plugin, by their paths below its folder."""
    about: dict[str, Any] = {
        "name": NAME,
        "version": __version__,
        "description": _DESCRIPTION,
        "author": _AUTHOR,
        "homepage": _HOME,
        "repository": _HOME,
        "license": _LICENSE,
        "keywords": _KEYWORDS,
    }
    command, *args = [*commands.server, *commands.bus]
    server = {"type": "stdio", "command": command, "args": args}
    mcp = _json({"$schema": f"{_SCHEMAS}/mcp.schema.json", "mcpServers": {NAME: server}})
    market = {"name": NAME, "owner": _AUTHOR, "description": _DESCRIPTION}
    listed = {"name": NAME, "description": _DESCRIPTION}
    files = {
        MARK: _json({"$schema": f"{_SCHEMAS}/plugin.schema.json", **about}),
        "mcp.json": mcp,
        ".mcp.json": mcp,
        ".claude-plugin/plugin.json": _json(about),
        ".claude-plugin/marketplace.json": _json({**market, "plugins": [{**listed, "source": "./"}]}),
        "monitors/monitors.json": _json([_monitor(commands)]),
        ".codex-plugin/plugin.json": _json({**about, "skills": "./skills", "mcpServers": "./.mcp.json"}),
        ".agents/plugins/marketplace.json": _json(
            {**market, "plugins": [{**listed, "source": {"source": "local", "path": "./"}}]}
        ),
        "gemini-extension.json": _json(
            {
                "name": NAME,
                "version": __version__,
                "description": _DESCRIPTION,
                "mcpServers": {NAME: {"command": command, "args": args}},
            }
        ),
        "README.md": _README.encode(),
    }
    return {**files, **_skill()}


def bundle_files(commands: Commands) -> dict[str, bytes]:
    """Return the files of the `.mcpb` bundle, which Claude Desktop installs: it runs them with a uv of its own."""
    run = ["run", "--directory", "${__dirname}", "server.py", *commands.bus]
    manifest = {
        "manifest_version": "0.4",
        "name": NAME,
        "version": __version__,
        "description": _DESCRIPTION,
        "author": _AUTHOR,
        "homepage": _HOME,
        "license": _LICENSE,
        "keywords": _KEYWORDS,
        "server": {"type": "uv", "entry_point": "server.py", "mcp_config": {"command": "uv", "args": run}},
        "compatibility": {"platforms": ["darwin", "linux", "win32"], "runtimes": {"python": ">=3.11"}},
    }
    project = [
        "[project]",
        'name = "agentbus-bundle"',
        f'version = "{__version__}"',
        'requires-python = ">=3.11"',
        f'dependencies = ["agentbus-mcp=={__version__}"]',
    ]
    return {
        "manifest.json": _json(manifest),
        "pyproject.toml": ("\n".join(project) + "\n").encode(),
        "server.py": b"from agentbus_mcp.cli import main\n\nmain()\n",
    }


def _monitor(commands: Commands) -> dict[str, str]:
    # Claude Code compares the name of the skill as it stands, with the plugin before it; the short form never arms.
    words = [*commands.watch, "watch", "--lines", "--session", *commands.bus]
    return {
        "name": "results",
        "description": _TITLE,
        "command": shlex.join(words),
        "when": f"on-skill-invoke:{NAME}:{NAME}",
    }


def _skill() -> dict[str, bytes]:
    folder = asset(f"skills/{NAME}")
    found = [file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(folder))]
    return {f"skills/{NAME}/{file.relative_to(folder).as_posix()}": file.read_bytes() for file in sorted(found)}


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


_README: Final = f"""\
# agentbus

{_DESCRIPTION}
This folder is a plugin: an MCP server, a skill that says when to use it and, in Claude Code, a monitor that tells an
idle session of results. It was made by `agentbus plugin build`.

| host | install |
|---|---|
| Claude Code | `claude plugin marketplace add ./FOLDER`, then `claude plugin install agentbus@agentbus` |
| Codex | `codex plugin marketplace add ./FOLDER`, then `codex plugin add agentbus@agentbus` |
| Gemini CLI | `gemini extensions install ./FOLDER` |
| Claude Desktop | open `agentbus.mcpb`, where there is one |
| VS Code, Cursor, others with Agent Plugins | add this folder as a plugin |

It needs a bus: `agentbus up` runs one on this machine. Documentation: {_HOME}
"""
