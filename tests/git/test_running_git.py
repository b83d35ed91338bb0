"""Git is run with fixed settings, and within limits."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from agentbus.errors import GitError, GitMissingError, GitTooLargeError
from agentbus.git.running import RUNNING, Git
from support.harness import eventually, processes_with

pytestmark = pytest.mark.posix("hooks and aliases of the tests are programs of a shell")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="which processes are left is read from /proc")
TIMEOUT_S = 60.0


async def repository(folder: Path) -> Git:
    folder.mkdir()
    await Git().run("init", "-q", "--template=", str(folder), timeout_s=TIMEOUT_S)
    return Git(folder=folder, variables={"MARK": str(folder)})


async def test_what_a_repository_sets_starts_no_program(tmp_path: Path) -> None:
    folder, ran = tmp_path / "repository", tmp_path / "ran"
    git = await repository(folder)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $* >> '{ran}'\n", encoding="utf-8")
    program.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        (hooks / name).symlink_to(program)
    with (folder / ".git" / "config").open("a", encoding="utf-8") as config:
        config.write(f"[core]\n hooksPath = {hooks}\n fsmonitor = {program}\n editor = {program}\n")
        config.write(f"[commit]\n gpgSign = true\n[gpg]\n program = {program}\n[diff]\n external = {program}\n")
    (folder / "file").write_text("one\n", encoding="utf-8")
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    await git.run("add", "file", timeout_s=TIMEOUT_S)
    await git.run(*author, "commit", "-q", "-m", "one", timeout_s=TIMEOUT_S)
    (folder / "file").write_text("two\n", encoding="utf-8")
    shown = await git.run("diff", "--no-ext-diff", timeout_s=TIMEOUT_S)
    assert "+two" in shown.text
    assert not ran.exists()


async def test_the_configuration_of_the_user_is_read_only_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[user]\n name = Alice\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.chdir(tmp_path)  # the clone with these tests may name a user of its own
    wanted = ("config", "--get", "user.name")
    assert (await Git(of_user=True).run(*wanted, timeout_s=TIMEOUT_S)).text == "Alice"
    assert (await Git().run(*wanted, timeout_s=TIMEOUT_S, check=False)).code == 1


@on_linux
async def test_a_command_that_hangs_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    git, began = await repository(tmp_path / "repository"), time.monotonic()
    with pytest.raises(GitError, match=r"has not ended within 0\.5 s"):
        await git.run("-c", "alias.hang=!sleep 300 & sleep 300", "hang", timeout_s=0.5)
    assert time.monotonic() - began < 30
    assert not RUNNING
    await eventually(lambda: not processes_with(git.variables["MARK"]), "the processes of the command have ended")


@on_linux
async def test_a_command_that_is_not_waited_for_any_more_is_ended(tmp_path: Path) -> None:
    git = await repository(tmp_path / "repository")
    marker = git.variables["MARK"]
    running = asyncio.create_task(git.run("-c", "alias.hang=!sleep 300", "hang", timeout_s=300))
    await eventually(lambda: bool(processes_with(marker)), "the command runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: not processes_with(marker), "the processes of the command have ended")


async def test_a_command_that_prints_too_much_is_ended_and_leaves_no_file(tmp_path: Path) -> None:
    git, into = await repository(tmp_path / "repository"), tmp_path / "printed"
    with pytest.raises(GitTooLargeError, match="more than 1000000 bytes"):
        await git.run("-c", "alias.much=!cat /dev/zero", "much", timeout_s=60, max_bytes=1_000_000, into=into)
    assert not into.exists()


async def test_an_error_says_what_git_said_in_one_harmless_line(tmp_path: Path) -> None:
    git = await repository(tmp_path / "repository")
    with pytest.raises(GitError) as failed:
        await git.run("rev-parse", "--verify", "no\x1b[31m\nsuch", timeout_s=TIMEOUT_S)
    assert str(failed.value).startswith("git rev-parse failed: ")
    assert str(failed.value).isprintable()
    assert failed.value.code == 128


async def test_a_machine_without_git_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(GitMissingError, match="git is not on the PATH"):
        await Git().run("version", timeout_s=TIMEOUT_S)
