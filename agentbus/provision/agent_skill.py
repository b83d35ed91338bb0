"""Copies the Agent Skill to where agent hosts look for skills."""

import filecmp
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from agentbus.config.atomic_files import why_not_written
from agentbus.config.home import in_home, in_home_if_any
from agentbus.errors import SkillError
from agentbus.provision.assets import asset

_NAME: Final = "agentbus"
_MARK: Final = f"\nname: {_NAME}\n"

Outcome = Literal["made", "updated", "up to date"]


@dataclass(frozen=True, slots=True)
class Host:
    """Where an agent host keeps its own files, and where it looks for skills: for a user, and in a project.

    Attributes:
        user: None if the host has skills in projects only.
    """

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


def present_hosts(project: Path | None = None) -> list[str]:
    """Return the hosts that have left traces here; where there are none, the folder that several share."""
    homes = {name: in_home_if_any(_home(name)) for name, host in HOSTS.items() if project or host.user}
    return [name for name, home in homes.items() if home is not None and home.is_dir()] or ["agents"]


def skill_folder(host: str, project: Path | None = None) -> Path:
    """Return the folder in which a host looks for this skill.

    Raises:
        SkillError: the host has skills in projects only, and none was named.
        ConfigError: the home folder is not known.
    """
    if project is not None:
        return project / HOSTS[host].project / _NAME
    user = HOSTS[host].user
    if user is None:
        raise SkillError(f"{host} has skills in projects only")
    return in_home(_home(host) / "skills" if host == "codex" else user) / _NAME


def install(target: Path) -> Outcome:
    """Copy the skill into a folder of its own, or bring an earlier copy up to date; returns what that meant.

    Raises:
        SkillError: something else is there, or the folder cannot be written.
    """
    source = asset(f"skills/{_NAME}")
    try:
        there = target.exists()
        if there and not _is_ours(target):
            raise SkillError(f"{target} is there and is not this skill; move it away first")
        if there and _same(filecmp.dircmp(source, target)):
            return "up to date"
        _copy(source, target)
    except OSError as error:
        raise SkillError(f"{target} cannot be written: {_why(error)}") from None
    return "updated" if there else "made"


def _home(host: str) -> Path:
    if host == "codex" and os.environ.get("CODEX_HOME"):
        return Path(os.environ["CODEX_HOME"])
    return Path(HOSTS[host].home)


def _is_ours(target: Path) -> bool:
    try:
        return target.is_dir() and _MARK in (target / "SKILL.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _same(found: "filecmp.dircmp[str]") -> bool:
    if found.left_only or found.right_only or found.funny_files:
        return False
    _, different, unreadable = filecmp.cmpfiles(found.left, found.right, found.common_files, shallow=False)
    return not different and not unreadable and all(_same(part) for part in found.subdirs.values())


def _copy(source: Path, target: Path) -> None:
    """Replace the copy as a whole; what is there stays until the new one is complete."""
    part, old = target.with_name(f".{_NAME}.part"), target.with_name(f".{_NAME}.old")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("__pycache__"))
        _replace_folder(part, target, old)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _replace_folder(new: Path, target: Path, old: Path) -> None:
    """Give a folder the place of another one. A folder cannot be replaced in one step, as a file can."""
    if not target.exists():
        new.replace(target)
        return
    target.replace(old)
    try:
        new.replace(target)
    except OSError:
        old.replace(target)
        raise


def _why(error: OSError) -> str:
    """Why a folder cannot be written; copying one collects the errors of all of its files."""
    if isinstance(error, shutil.Error) and error.args:
        return "; ".join(dict.fromkeys(str(reason) for _, _, reason in error.args[0]))
    return why_not_written(error)
