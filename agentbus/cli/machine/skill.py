"""`agentbus skill`: the Agent Skill where agent hosts look for skills."""

import filecmp
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from agentbus.cli.output import remark
from agentbus.errors import SkillError
from agentbus.provision.assets import asset

_NAME: Final = "agentbus"
_MARK: Final = f"\nname: {_NAME}\n"


@dataclass(frozen=True, slots=True)
class Host:
    """Where an agent host keeps its own files, and where it looks for skills: for a user, and in a project."""

    home: str
    user: str | None
    project: str


HOSTS: Final[Mapping[str, Host]] = {
    "claude-code": Host("~/.claude", "~/.claude/skills", ".claude/skills"),
    "codex": Host("~/.codex", "~/.codex/skills", ".agents/skills"),
    "copilot": Host("~/.copilot", None, ".github/skills"),
    "cursor": Host("~/.cursor", "~/.cursor/skills", ".cursor/skills"),
    "opencode": Host("~/.config/opencode", "~/.config/opencode/skills", ".opencode/skills"),
    "agents": Host("~/.agents", "~/.agents/skills", ".agents/skills"),
}
"""`agents` is the folder that several hosts share."""


@click.group()
def skill() -> None:
    """Install the Agent Skill that explains agentbus to agents."""


@skill.command(
    short_help="Copy the skill to where agent hosts look for it.",
    epilog="""\b
Examples:
  agentbus skill install                      for every host that this user has
  agentbus skill install --host claude-code
  agentbus skill install --host codex --project .""",
)
@click.option("--host", "hosts", type=click.Choice(list(HOSTS)), multiple=True, help="Default: every one that is here.")
@click.option(
    "--project",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Into the skills of this project instead of the user's.",
)
def install(hosts: tuple[str, ...], project: Path | None) -> None:
    """Copy the skill, or bring an earlier copy up to date."""
    source = asset(f"skills/{_NAME}")
    for folder in dict.fromkeys(_folder(host, project) for host in hosts or _present(project)):
        target = folder / _NAME
        before = _state(source, target)
        if before != "same":
            _copy(source, target)
        remark(f"{target}: {'up to date' if before == 'same' else before}")


def _present(project: Path | None) -> list[str]:
    """The hosts that have left traces here; where there are none, the folder that several share."""
    found = [name for name, host in HOSTS.items() if (project or host.user) and _home(name).is_dir()]
    return found or ["agents"]


def _home(host: str) -> Path:
    if host == "codex" and os.environ.get("CODEX_HOME"):
        return Path(os.environ["CODEX_HOME"])
    return Path(HOSTS[host].home).expanduser()


def _folder(host: str, project: Path | None) -> Path:
    if project is not None:
        return project / HOSTS[host].project
    user = HOSTS[host].user
    if user is None:
        raise click.UsageError(f"{host} has skills in projects only; add --project FOLDER")
    return _home(host) / "skills" if host == "codex" else Path(user).expanduser()


def _state(source: Path, target: Path) -> str:
    """What installing means here: `made`, `updated`, or nothing, because it is the `same`."""
    if not target.exists():
        return "made"
    try:
        ours = target.is_dir() and _MARK in (target / "SKILL.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        ours = False
    if not ours:
        raise SkillError(f"{target} is there and is not this skill; move it away first")
    return "same" if _same(filecmp.dircmp(source, target)) else "updated"


def _same(found: "filecmp.dircmp[str]") -> bool:
    if found.left_only or found.right_only or found.funny_files:
        return False
    _, different, unreadable = filecmp.cmpfiles(found.left, found.right, found.common_files, shallow=False)
    return not different and not unreadable and all(_same(part) for part in found.subdirs.values())


def _copy(source: Path, target: Path) -> None:
    """Replace the copy as a whole; what is there stays until the new one is complete."""
    part, old = target.with_name(f".{_NAME}.part"), target.with_name(f".{_NAME}.old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("__pycache__"))
        if target.exists():
            target.rename(old)
        part.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise SkillError(f"{target} cannot be written: {error.strerror or error}") from None
