"""Follow a page as its reader does: machines with homes of their own, terminals, clones and files."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agentbus.config.loading import URL_VARIABLE
from support.documentation import COMMANDS, Block, run
from support.free_ports import free_port
from support.harness import BOUND_S, Ran, eventually, process

PORT = "7422"
CLONE = "agentbus"
"""The name of the clone in the commands of the pages."""
FITTED = {":8765": ":0", "{1..10}": "{1..2}"}
"""Any free port; and two of ten, because each command takes half a second to start."""
SCRIPTS = Path(sys.executable).parent
STAND_IN = """\
#!/usr/bin/env python3
import pathlib, sys
prompt = sys.stdin.read() if "--" not in sys.argv else sys.argv[-1]
if "LICENSE" in prompt:
    pathlib.Path("LICENSE").write_text("MIT License\\n")
print(f"Hello from a stand-in for Claude Code, with a prompt of {len(prompt.split())} words.")
"""


@dataclass
class Machine:
    """A machine with a home, and what was typed first in the terminal in which its commands are run."""

    home: Path
    environment: dict[str, str]
    prelude: list[str] | None
    replacements: dict[str, str] = field(default_factory=dict[str, str])


class Reader:
    """Follow the blocks of a page that have commands.

    `run` runs a block in the terminal of the block before; `in a new terminal` opens another one. `start` opens a
    terminal for a command that stays. `in a repository` runs a block in a git repository. `on the X machine` runs it
    on another machine: with a home, and a clone, of its own.

    On a page that has its commands activate the environment, nothing is on the PATH before; so a terminal in which
    the page forgets it fails. On other pages (`activated`) the commands of the environment are on the PATH.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, activated: bool = False) -> None:
        self._folder = folder
        self._stack = stack
        self._activated = activated
        self._machines: dict[str, Machine] = {}
        self._port = PORT
        self._terminals = 0
        self._output = ""
        self._agents = agents = folder / "agents"
        agents.mkdir()
        (agents / "claude").write_text(STAND_IN, encoding="utf-8")
        (agents / "claude").chmod(0o755)
        others = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != SCRIPTS]
        self._path = os.pathsep.join([str(agents), *([str(SCRIPTS)] if activated else []), *others])

    def use_agent(self, name: str, program: Path) -> None:
        """Let a program stand in for an agent."""
        script = f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n'
        (self._agents / name).write_text(script, encoding="utf-8")

    # -- machines ------------------------------------------------------------------------------------------------

    def machine(self, name: str = "") -> Machine:
        """The machine of this name; the one without a name has the home of the test."""
        if name not in self._machines:
            home = self._folder / name if name else Path(os.environ["HOME"])
            home.mkdir(exist_ok=True)
            (home / CLONE).mkdir()
            (home / CLONE / ".venv").symlink_to(sys.prefix, target_is_directory=True)
            environment = {**os.environ, "HOME": str(home), "PATH": self._path}
            environment.pop("VIRTUAL_ENV", None)
            machine = Machine(home, environment, [] if self._activated else None)
            if name == "bus":
                machine.replacements["--host 10.0.0.5"] = f"--host 127.0.0.1 --port {free_port()} --monitoring-port 0"
            self._machines[name] = machine
        return self._machines[name]

    def use_bus(self, url: str) -> None:
        """Let the commands of the machine without a name use this bus; the usual port may be taken."""
        self._port = url.rpartition(":")[2]
        self.machine().environment[URL_VARIABLE] = url

    @property
    def environment(self) -> dict[str, str]:
        """Of the machine without a name."""
        return self.machine().environment

    def _repository(self, machine: Machine) -> Path:
        folder = machine.home / "repository"
        if not folder.exists():
            make_repository(folder)
        return folder

    # -- blocks --------------------------------------------------------------------------------------------------

    async def follow(self, block: Block) -> None:
        commands = re.fullmatch(COMMANDS, block.marker)
        if commands:
            await self._follow_commands(block, commands)
        elif block.marker.startswith("write "):
            machine = self.machine()
            folder = machine.home if self._activated else machine.home / CLONE
            (folder / block.marker.split()[1]).write_text(self._fitted(block.text, machine), encoding="utf-8")
        elif block.marker.startswith("the output before"):
            expected, printed = json.loads(block.text), [json.loads(line) for line in self._output.splitlines()]
            assert shape(expected) == shape(printed[-1]), f"{block.where}: {printed}"
        else:
            raise AssertionError(block.where)

    async def _follow_commands(self, block: Block, marker: re.Match[str]) -> None:
        machine = self.machine(marker["machine"] or "")
        folder = self._repository(machine) if marker["repository"] else machine.home
        text = self._fitted(block.text, machine)
        if marker["verb"] == "start":
            await self._start(text, machine, folder, marker["until"])
            return
        lines = text.splitlines()
        first = next(number for number, line in enumerate([*lines, ""]) if not re.match(r"(cd|\.) ", line))
        if marker["new"]:
            machine.prelude = lines[:first]
        assert machine.prelude is not None, f"{block.where}: this terminal was not opened"
        script = "\n".join([*machine.prelude, *(lines[first:] if marker["new"] else lines)])
        wanted = marker["until"] or marker["says"] or ""
        if marker["until"]:
            await eventually(lambda: self._prints(script, machine, folder, wanted), f"{block.where} prints {wanted!r}")
        else:
            ran = await self._run(script, machine, folder)
            assert ran.code == 0, f"{block.where}: {ran.err}"
            assert wanted in ran.out, f"{block.where}: {ran.out}"

    async def _start(self, text: str, machine: Machine, folder: Path, wanted: str) -> None:
        *before, command = text.strip().splitlines()
        # The usual port may be taken on this machine.
        command = re.sub(r"^agentbus up$", "agentbus up --port 0", command)
        self._terminals += 1
        log = self._folder / f"terminal-{self._terminals}.log"
        argv = ["bash", "-euc", "\n".join([*before, f"exec {command}"])]
        child = self._stack.enter_context(process(argv, log, cwd=folder, env=machine.environment))
        await child.until_said(wanted)
        if command.startswith("agentbus up"):
            self.use_bus(str(json.loads(log.read_text(encoding="utf-8"))["url"]))

    def _fitted(self, text: str, machine: Machine) -> str:
        """The text with ports and addresses of this test."""
        for old, new in {f":{PORT}": f":{self._port}", **FITTED, **machine.replacements}.items():
            text = text.replace(old, new)
        return text

    async def _prints(self, script: str, machine: Machine, folder: Path, wanted: str) -> bool:
        ran = await self._run(script, machine, folder)
        return ran.code == 0 and wanted in ran.out

    async def _run(self, script: str, machine: Machine, folder: Path) -> Ran:
        argv = ["bash", "-euo", "pipefail", "-c", script]
        ran = await run(*argv, cwd=folder, env=machine.environment, timeout_s=6 * BOUND_S)
        self._output = ran.out
        return ran


def make_repository(folder: Path) -> None:
    """A git repository with two commits."""
    folder.mkdir(parents=True)
    git = ["git", "-c", "user.name=Reader", "-c", "user.email=reader@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    for number in (1, 2):
        (folder / "main.py").write_text(f"print({number})\n", encoding="utf-8")
        subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Print {number}"], cwd=folder, check=True)


def shape(value: Any, name: str = "") -> Any:
    """A message without what is different each time: ids, times, numbers."""
    if isinstance(value, dict):
        return {key: shape(inner, str(key)) for key, inner in cast("dict[str, Any]", value).items()}
    if name in ("id", "worker") or name.endswith("_at"):
        return "…"
    if isinstance(value, str):
        return re.sub(r"\d+", "0", value)
    return 0 if isinstance(value, int | float) else value
