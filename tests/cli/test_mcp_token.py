"""`agentbus mcp token`: each command in a process, and two at the same moment."""

import asyncio
import json
import stat
from pathlib import Path

import pytest

from agentbus.config.mcp_tokens import hash_of, read_tokens
from agentbus.config.toml_text import toml_text
from support.harness import Ran, run_cli

pytestmark = pytest.mark.posix("modes of files")


@pytest.fixture
def coordinator(tmp_path: Path) -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(toml_text({"nats": {"url": "nats://127.0.0.1:1"}}), encoding="utf-8")
    return path


async def token(*args: str) -> Ran:
    return await run_cli("mcp", "token", *args)


async def test_a_token_is_made_replaced_listed_and_removed(home: Path, coordinator: Path) -> None:
    file = home / ".agentbus" / "mcp-tokens.toml"
    made = await token("add", "alice", "--coordinator", str(coordinator))
    assert made.code == 0
    assert "shown once" in made.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_tokens(file)["alice"].sha256 == hash_of(made.out.strip())
    again = await token("add", "alice", "--coordinator", str(coordinator))
    assert (again.code, again.out) == (1, "")
    assert "rotate alice" in again.err
    renewed = await token("rotate", "alice")
    assert read_tokens(file)["alice"].sha256 == hash_of(renewed.out.strip()) != hash_of(made.out.strip())
    listed = await token("list")
    assert [json.loads(line) for line in listed.out.splitlines()] == [
        {"name": "alice", "coordinator": str(coordinator)}
    ]
    assert (await token("remove", "alice")).code == 0
    assert read_tokens(file) == {}
    for verb in ("remove", "rotate"):
        gone = await token(verb, "alice")
        assert (gone.code, gone.out) == (1, "")
        assert "there is no token of alice; there are: none" in gone.err


async def test_what_cannot_work_is_refused_and_the_file_stays_as_it_is(tmp_path: Path, coordinator: Path) -> None:
    file = tmp_path / "mcp-tokens.toml"
    refused = [
        await token("add", "alice", "--tokens", str(file), "--coordinator", str(tmp_path / "missing.toml")),
        await token("add", "A lice", "--tokens", str(file), "--coordinator", str(coordinator)),
        await token("list", "--tokens", str(file)),
    ]
    assert [ran.code for ran in refused] == [1, 1, 1]
    assert not any(ran.out for ran in refused)
    assert not file.exists()
    await token("add", "alice", "--tokens", str(file), "--coordinator", str(coordinator))
    file.chmod(0o644)
    before = file.read_bytes()
    exposed = await token("add", "bob", "--tokens", str(file), "--coordinator", str(coordinator))
    assert (exposed.code, exposed.out) == (1, "")
    assert "chmod 600" in exposed.err
    assert file.read_bytes() == before


async def test_tokens_that_are_made_at_the_same_moment_are_all_kept(tmp_path: Path, coordinator: Path) -> None:
    file, names = tmp_path / "mcp-tokens.toml", ["alice", "bob", "carol", "dave"]
    made = await asyncio.gather(
        *(token("add", name, "--tokens", str(file), "--coordinator", str(coordinator)) for name in names)
    )
    tokens = read_tokens(file)
    assert {name: tokens[name].sha256 for name in names} == {
        name: hash_of(ran.out.strip()) for name, ran in zip(names, made, strict=True)
    }
