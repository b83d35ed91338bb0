"""The recipes of docs/how-to work: their commands are run, the files that they name are linted."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agentbus import Coordinator
from agentbus.config.worker_schema import WorkerSection
from agentbus.provision.nats_server import NatsServer
from support.documentation import COMMANDS, HOW_TO, marked, run
from support.harness import ROOT, worker, worker_toml
from support.reader import SCRIPTS, Reader, make_repository

pytestmark = pytest.mark.posix("runs shell commands of the documentation")
# Every command starts a process of its own, which takes seconds on a machine that is busy.

GIVE_TASKS = HOW_TO / "give-tasks.md"
DOCKER = ROOT / "deploy" / "docker"


@asynccontextmanager
async def following(page: Path, tmp_path: Path, server: NatsServer, sections: str = "") -> AsyncGenerator[Reader]:
    """Run workers of `code` and `doc`, as the pages assume them; in the end follow the sections, or the whole page."""
    async with AsyncExitStack() as stack:
        reader = Reader(tmp_path, stack.enter_context(ExitStack()), activated=True)
        reader.use_bus(server.url)
        claude = [str(tmp_path / "agents" / "claude"), "-p", "--", "{input}"]
        for agent in ("code", "doc"):
            config = worker_toml(tmp_path, server.url, agent=agent, chat_cmd=claude, worker={"concurrency": 4})
            await stack.enter_async_context(worker(config))
        yield reader
        for block in marked(rf"{COMMANDS}|write .+", page):
            if re.search(sections, block.heading):
                await reader.follow(block)


async def states(coordinator: Coordinator) -> dict[str, str]:
    return {status.task_id: status.state for status in (await coordinator.list_tasks(limit=100)).tasks}


async def test_recipes_for_one_task(server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    async with following(GIVE_TASKS, tmp_path, server, "Run one|file or a pipe|first answer|urgent"):
        pass
    found = await states(coordinator)
    assert {found.pop(task_id) for task_id in ("review-7f3a", "review-diff", "hotfix-1")} == {"completed"}
    assert "completed" in {found.pop("name-it-code"), found.pop("name-it-doc")}
    assert found == {}


async def test_ten_tasks_and_a_summary(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    async with following(GIVE_TASKS, tmp_path, server, "summary"):
        pass
    assert sum(task_id.startswith("book-") for task_id in await states(coordinator)) == 3
    assert (home / "chapters.md").read_text(encoding="utf-8").count("Hello from") == 2
    assert "Hello from" in (home / "summary.md").read_text(encoding="utf-8")


async def test_many_tasks_from_a_file(server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path) -> None:
    async with following(GIVE_TASKS, tmp_path, server, "thousand"):
        pass
    published = (home / "published.jsonl").read_text(encoding="utf-8").splitlines()
    found = await states(coordinator)
    assert len(published) == len(found) > 1
    assert set(found.values()) == {"completed"}


async def test_a_patch_comes_back_and_can_be_applied(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    async with following(GIVE_TASKS, tmp_path, server, "Get files back"):
        pass
    assert (home / "repository" / "LICENSE").read_text(encoding="utf-8") == "MIT License\n"


@pytest.mark.skipif(shutil.which("jq") is None, reason="the recipe needs jq")
async def test_everything_is_stopped(server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    async with following(GIVE_TASKS, tmp_path, server, "Stop"):
        for number in (1, 2):
            await coordinator.publish("idle", "wait", task_type="test", task_id=f"waiting-{number}")
    found = await states(coordinator)
    assert (found["waiting-1"], found["waiting-2"]) == ("cancelled", "cancelled")


def test_every_recipe_is_tried() -> None:
    tried = "Run one|file or a pipe|first answer|urgent|summary|thousand|Get files back|Stop"
    assert [block.where for block in marked(COMMANDS, GIVE_TASKS) if not re.search(tried, block.heading)] == []


async def test_the_task_of_a_night_runs_once(server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    [block] = marked("a crontab", GIVE_TASKS)
    times, command = re.fullmatch(r"((?:[\d*]+ ){5}) *(.+)\n", block.text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert times.split()[:2] == ["0", "3"]
    assert re.search(r"(?<!\\)%", command) is None, "cron ends a command at %"
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        reader.use_bus(server.url)
        cron = {**reader.environment, "PATH": "/usr/bin:/bin"}
        for _ in range(2):
            ran = await run("sh", "-c", command.replace("\\%", "%"), cwd=tmp_path, env=cron)
            assert ran.code == 0, ran.err
    [task_id] = await states(coordinator)
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d", task_id)


async def test_recipes_for_agents(server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path) -> None:
    make_repository(home / "src" / "shop-web")
    async with following(HOW_TO / "agents.md", tmp_path, server):
        pass
    assert await states(coordinator) == {"api-1": "completed", "web-1": "completed"}
    assert (home / "agentbus-tasks").exists()
    assert list((home / "agentbus-tasks").rglob("main.py")), "the task had a clone of its own"


async def test_mcp_hosts_get_their_entries(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    async with following(HOW_TO / "mcp-hosts.md", tmp_path, server):
        pass
    entry = tomllib.loads((home / ".codex" / "config.toml").read_text(encoding="utf-8"))["mcp_servers"]["agentbus"]
    assert Path(entry["command"]).name == "agentbus-mcp"
    assert (home / ".agentbus" / "mcp.token").stat().st_mode & 0o777 == 0o600


# -- Docker ------------------------------------------------------------------------------------------------------


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = SCRIPTS / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this system")
    done = subprocess.run(
        [hadolint, DOCKER / "Dockerfile"], check=False, capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.stdout == ""


def test_the_image_runs_a_worker_as_a_user_without_rights() -> None:
    lines = (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    [user] = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert int(user) >= 1000
    [entry] = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("ENTRYPOINT ")]
    [command] = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("CMD ")]
    assert [*entry[-1:], *command] == ["agentbus", "worker", "run", "--config", "/etc/agentbus/config.toml"]


def test_the_image_is_built_from_all_that_the_package_needs() -> None:
    rules = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "README.md", "LICENSE", "pyproject.toml"}
    assert {name.split("/")[0] for name in needed} <= sent


def test_the_compose_file_is_valid_and_keeps_what_must_survive() -> None:
    compose: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "tests" / "schemas" / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.validate(compose, schema)
    service = compose["services"]["worker"]
    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    fields = WorkerSection.model_fields
    stop_s = fields["drain_timeout_seconds"].default + 2 * fields["kill_grace_seconds"].default
    assert int(service["stop_grace_period"].removesuffix("s")) > stop_s
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert set(mounts) == set(compose["volumes"])
    assert "/home/agentbus/.agentbus" in mounts.values(), "the outbox survives the container"
    page = (HOW_TO / "docker.md").read_text(encoding="utf-8")
    for name, path in mounts.items():
        assert f"--volume {compose['name']}_{name}:{path}" in page


@pytest.mark.parametrize("block", marked("not runnable here: needs a Docker daemon.+"), ids=lambda block: block.where)
def test_commands_for_docker_are_commands_of_a_shell(block: Any) -> None:
    done = subprocess.run(
        ["bash", "-n"], input=block.text, encoding="utf-8", check=False, capture_output=True, timeout=60
    )
    assert done.stderr == ""
    for file in re.findall(r"deploy/docker/\S+", block.text):
        assert (ROOT / file).exists()
