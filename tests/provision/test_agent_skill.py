"""`agentbus skill install`: puts the skill where each host looks for it, completely or not at all."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from agentbus.errors import SkillError
from agentbus.provision import agent_skill
from agentbus.provision.agent_skill import HOSTS
from support.file_faults import dies_before_replacing, read_only
from support.harness import ROOT, run_cli
from support.in_process import run_here

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_the_skill_is_installed_for_every_host_of_this_machine_and_updated(tmp_path: Path, home: Path) -> None:
    (home / ".claude").mkdir()
    (home / ".cursor").mkdir()
    done = await run_cli("skill", "install")
    assert done.code == 0, done.err
    copies = [home / ".claude" / "skills" / "agentbus", home / ".cursor" / "skills" / "agentbus"]
    assert done.err.splitlines() == [f"{copy}: made" for copy in copies]
    source = ROOT / "skills" / "agentbus"
    for copy in copies:
        wanted = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == wanted
    (copies[0] / "SKILL.md").write_text(
        (copies[0] / "SKILL.md").read_text(encoding="utf-8") + "\nof an earlier version\n", encoding="utf-8"
    )
    again = await run_cli("skill", "install")
    assert again.err.splitlines() == [f"{copies[0]}: updated", f"{copies[1]}: up to date"]
    assert "of an earlier version" not in (copies[0] / "SKILL.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in copies[0].parent.iterdir()) == ["agentbus"]


async def test_without_a_host_the_skill_is_installed_in_the_shared_folder(home: Path) -> None:
    done = await run_cli("skill", "install")
    assert done.err == f"{home / '.agents' / 'skills' / 'agentbus'}: made\n"


@pytest.mark.parametrize("host", list(HOSTS))
async def test_the_skill_of_a_project_is_installed_where_the_host_looks(tmp_path: Path, host: str) -> None:
    done = await run_cli("skill", "install", "--host", host, "--project", str(tmp_path))
    assert done.code == 0, done.err
    assert (tmp_path / HOSTS[host].project / "agentbus" / "SKILL.md").is_file()


def test_a_host_with_skills_in_projects_only_needs_a_project() -> None:
    ran = run_here("skill", "install", "--host", "claude-code", "--host", "copilot")
    assert (ran.code, ran.out) == (2, "")
    assert "copilot has skills in projects only; add --project FOLDER" in ran.err
    with pytest.raises(SkillError, match="copilot has skills in projects only"):
        agent_skill.skill_folder("copilot")


@pytest.mark.parametrize("step", ["copying", "replacing"])
def test_a_skill_that_cannot_be_replaced_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "skills" / "agentbus"
    assert agent_skill.install(target) == "made"
    (target / "SKILL.md").write_text("---\nname: agentbus\n---\nof an earlier version\n", encoding="utf-8")
    replace = Path.replace

    def refused(path: Path, other: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, other)

    def full(source: str, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source)

    monkeypatch.setattr(*((shutil, "copyfile", full) if step == "copying" else (Path, "replace", refused)))
    with pytest.raises(SkillError, match=re.escape(f"{target} cannot be written: ") + ".*No space left on device"):
        agent_skill.install(target)
    assert "of an earlier version" in (target / "SKILL.md").read_text(encoding="utf-8")
    assert [path.name for path in target.parent.iterdir()] == ["agentbus"]
    monkeypatch.undo()
    assert agent_skill.install(target) == "updated"
    assert agent_skill.install(target) == "up to date"


@pytest.mark.parametrize(("replacement", "left"), [(1, "agentbus"), (2, ".agentbus.old")])
def test_a_process_that_dies_while_it_replaces_the_skill_leaves_a_whole_copy_and_the_next_one_continues(
    tmp_path: Path, replacement: int, left: str
) -> None:
    target = tmp_path / "agentbus"
    agent_skill.install(target)
    (target / "SKILL.md").write_text("---\nname: agentbus\n---\nof an earlier version\n", encoding="utf-8")
    copies = "from agentbus.provision import agent_skill; import sys; agent_skill.install(Path(sys.argv[1]))"
    dies_before_replacing(copies, target, nth=replacement)
    assert "of an earlier version" in (tmp_path / left / "SKILL.md").read_text(encoding="utf-8")
    assert agent_skill.install(target) == ("updated" if left == "agentbus" else "made")
    assert [path.name for path in tmp_path.iterdir()] == ["agentbus"]


def test_a_skill_in_a_folder_that_may_not_be_written_to_is_named_with_the_fix() -> None:
    with read_only() as folder:
        reason = "Permission denied; make its folder writable for this user"
        with pytest.raises(SkillError, match=re.escape(f"{folder}/agentbus cannot be written: {reason}")):
            agent_skill.install(folder / "agentbus")
        assert [*folder.iterdir()] == []


async def test_another_skill_of_the_same_name_is_left_alone(home: Path) -> None:
    other = home / ".claude" / "skills" / "agentbus"
    other.mkdir(parents=True)
    (other / "SKILL.md").write_text("---\nname: something else\n---\n", encoding="utf-8")
    done = await run_cli("skill", "install", "--host", "claude-code")
    assert done.code == 1
    assert "is not this skill" in done.err
    assert (other / "SKILL.md").read_text(encoding="utf-8").startswith("---\nname: something else")
