"""No secret of a whole run stands in anything that it wrote, stored or showed."""

import asyncio
import base64
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from mcp import Client

from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.nkeys import new_seed
from agentbus.config.schema import NatsSection
from agentbus.provision.nats_server import NatsServer, run_server
from support.free_ports import free_port
from support.harness import Process, Ran, eventually, process, run_cli
from support.mcp_harness import http_server, over_http, over_stdio
from support.scraping import get, url_of
from support.searching import Processes, Vault, in_files, in_streams, readable_by_others, watching_processes

pytestmark = [
    pytest.mark.posix("not tried on Windows"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

AGENT = """\
import os, sys
print("environment:", dict(os.environ))
print("arguments:", sys.argv, file=sys.stderr)
if "please crash" in sys.argv[-1]:
    raise RuntimeError(f"crashed with {os.environ}")
if "please fail" in sys.argv[-1]:
    sys.exit(3)
"""
PIECES = ("wr0ng-begins-so", "it-goes-on-like-this", "then-comes-a-colon", "with-€-it-ends")
WRONG = "{}@{}/{}:{}".format(*PIECES)
"""Where it is not percent-encoded, a parser will take a piece of it for a host, a port or a path."""
WRONG_BEARER = "bearer-of-no-client-5a1c77e09d"
DEBUG = {"PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1", "PYTHONDEVMODE": "1"}


class Run:
    """A bus in a folder, its users, and the folder for what they print."""

    def __init__(self, path: Path, auth: str) -> None:
        self.path, self.auth = path, auth
        self.bus, self.here, self.there, self.said = path / "bus", path / "here", path / "there", path / "said"
        self.said.mkdir()
        self.vault = Vault()
        self.allowed: dict[Path, set[str]] = {}
        self.suffix = "nk" if auth == "nkey" else "password"

    async def types(self, *words: str | Path, code: int | None = 0, **env: str) -> Ran:
        """A command, whose output is kept."""
        ran = await run_cli(*map(str, words), env={**DEBUG, **env})
        assert code is None or ran.code == code, ran.err
        self.keep(ran.out + ran.err)
        return ran

    def keep(self, text: str) -> None:
        (self.said / f"{len(list(self.said.iterdir()))}.txt").write_text(text, encoding="utf-8")

    def may_hold(self, path: Path, *names: str) -> None:
        """Set the secrets that one file may hold."""
        self.allowed[path] = set(names)

    def credential(self, party: str, name: str) -> str:
        """Take the credential of a party, as it is now, for a secret."""
        path = self.bus / "credentials" / f"{party}.{self.suffix}"
        secret = path.read_text(encoding="utf-8").strip()
        self.vault.keep(name, secret)
        self.may_hold(path, name)
        return secret

    async def bundle(self, party: str, name: str) -> Path:
        path = self.path / f"{name}.bundle"
        await self.types("agent", "bundle", party, "--bus", self.bus, "--output", path)
        self.may_hold(path, name)
        return path

    def private_key(self, name: str) -> None:
        path = self.bus / "tls" / f"{name}-key.pem"
        self.vault.keep(
            f"key of the {name}", path.read_text(encoding="utf-8").splitlines()[2]
        )  # the first line says which curve it is
        self.may_hold(path, f"key of the {name}")


@asynccontextmanager
async def prepared(path: Path, auth: str) -> AsyncGenerator[tuple[Run, NatsServer]]:
    """init, setup, bundles, worker init, coordinator init; the server logs whatever it can."""
    run = Run(path, auth)
    port = ("--port", str(free_port()), "--monitoring-port", "0")
    await run.types("init", run.bus, *port, "--agent", "code", "--agent", "doc", "--auth", auth)
    for party in ("admin", "main", "code", "doc"):
        run.credential(party, party)
    run.private_key("ca")
    run.private_key("server")
    with (run.bus / "nats-server.conf").open("a", encoding="utf-8") as file:
        file.write("\ndebug: true\ntrace: true\n")
    async with run_server(store=path / "nats", config=run.bus / "nats-server.conf") as server:
        await run.types("setup", "--config", run.bus / "admin.toml", "--agent", "code", "--agent", "doc")
        (path / "agent.py").write_text(AGENT, encoding="utf-8")
        command = shlex.join([sys.executable, str(path / "agent.py"), "{input}"])
        await run.types(
            "worker", "init", "--bundle", await run.bundle("code", "code"), "--folder", run.there, "--command", command
        )
        run.may_hold(run.there / f"code.{run.suffix}", "code")
        with (run.there / "config.toml").open("a", encoding="utf-8") as file:
            file.write("\n[metrics]\nport = 0\n")
        await run.types("coordinator", "init", "--bundle", await run.bundle("main", "main"), "--folder", run.here)
        run.may_hold(run.here / f"main.{run.suffix}", "main")
        yield run, server


@asynccontextmanager
async def noisy_worker(run: Run, **env: str) -> AsyncGenerator[Process]:
    argv = [sys.executable, "-m", "agentbus", "worker", "run", "--verbose"]
    log = run.said / f"worker-{os.urandom(3).hex()}.txt"
    with process([*argv, "--config", str(run.there / "config.toml")], log, env={**os.environ, **DEBUG, **env}) as child:
        yield child


async def reload(server: NatsServer) -> None:
    before = server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
    server.reload()
    await eventually(
        lambda: server.log.read_text(encoding="utf-8").count("Reloaded server") > before, "the server has read it again"
    )


async def use_the_tools(run: Run, client: Client) -> None:
    """Give tasks that end well and badly, and look at everything."""
    published: list[str] = []
    for content in ("please print", "please fail", "please crash"):
        job = {"to": ["code"], "content": content, "task_type": "test"}
        answer = await client.call_tool("publish_task", job)
        assert not answer.is_error
        assert answer.structured_content
        published.append(answer.structured_content["published"][0]["task_id"])
    calls: list[tuple[str, dict[str, Any]]] = [
        ("watch_results", {"task_ids": published, "timeout_seconds": 25, "mode": "all"}),
        ("get_results", {"limit": 10}),
        *(("get_task", {"task_id": task_id}) for task_id in published),
        ("get_task", {"task_id": "no-such-task"}),
        ("list_tasks", {}),
        ("list_agents", {}),
        ("cancel_task", {"task_ids": published}),
        ("answer_approval", {"task_id": published[0], "approve": True}),
        ("publish_task", {"to": "doc.*", "content": 7}),
    ]
    for tool, arguments in calls:
        answer = await client.call_tool(tool, arguments)
        run.keep(json.dumps(answer.model_dump(mode="json")))
    for uri in ("agentbus://agents/main/results", "agentbus://streams/AGENT_TASKS", "agentbus://streams/AGENT_RESULTS"):
        run.keep((await client.read_resource(uri)).model_dump_json())


async def use_the_commands(run: Run) -> None:
    main = ("--config", run.here / "coordinator.toml")
    for words in (
        ("task", "publish", *main, "--to", "code", "--task-type", "test", "please fail"),
        ("task", "publish", *main, "--to", "absent", "--task-type", "test", "please wait"),
        ("result", "get", *main, "--agent", "main", "--limit", "20"),
        ("agent", "list", *main),
        ("status", *main),
        ("doctor", *main),
        ("doctor", "--json", *main, "--probe", "code"),
        ("doctor", "--role", "worker", "--config", run.there / "config.toml"),
        ("doctor", "--role", "administrator", "--config", run.bus / "admin.toml"),
        ("dead", "list", "--config", run.bus / "admin.toml"),
        ("mcp", "config", "--host", "claude-code", *main),
    ):
        await run.types(*words, code=None)


async def use_the_bus_with_urls(run: Run, server: NatsServer, secret: str) -> None:
    """Passwords in URLs: on the command line and in the environment, right, wrong and unreadable."""
    ca = str(run.bus / "tls" / "ca.pem")
    where = f"127.0.0.1:{server.url.rpartition(':')[2]}"
    right = f"tls://agent-main:{quote(secret, safe='')}@{where}"
    wrong = f"tls://agent-main:{quote(WRONG, safe='')}@{where}"
    get = ("result", "get", "--agent", "main")
    warned = await run.types(*get, "--nats-url", right, code=0 if run.auth == "password" else 1, SSL_CERT_FILE=ca)
    assert "shows in the process list" in warned.err
    await run.types(*get, code=0 if run.auth == "password" else 1, SSL_CERT_FILE=ca, AGENTBUS_NATS_URL=right)
    refused = await run.types(*get, "--nats-url", wrong, code=1, SSL_CERT_FILE=ca)
    assert "refused the credentials" in refused.err
    unreadable = await run.types(*get, "--nats-url", f"tls://agent-main:{WRONG}@{where}", code=1)
    assert "percent-encode" in unreadable.err
    await run.types("doctor", "--nats-url", wrong, code=1, SSL_CERT_FILE=ca)
    file = run.path / "wrong.password"
    file.write_text(WRONG, encoding="utf-8")
    file.chmod(0o600)
    run.may_hold(file, "wrong", *PIECES)
    config = run.path / "wrong.toml"
    sign_in = f'url = "tls://{where}"\nca_file = "{ca}"\nuser = "agent-main"\npassword_file = "{file}"\n'
    config.write_text(f"[nats]\n{sign_in}", encoding="utf-8")
    await run.types(*get, "--config", config, code=1)
    async with over_stdio(run.said / "mcp-wrong.txt", "auto", "--config", str(config)) as client:
        answer = await client.call_tool("get_results", {})
        assert answer.is_error
        run.keep(json.dumps(answer.model_dump(mode="json")))


async def use_it_over_http(run: Run, config: Path) -> None:
    """The MCP server over HTTP, with the right token and with wrong ones."""
    run.vault.keep("wrong bearer", WRONG_BEARER)
    bearer = os.urandom(24).hex()
    run.vault.keep("bearer", bearer)
    token_file = run.path / "mcp.token"
    token_file.write_text(bearer + "\n", encoding="utf-8")
    token_file.chmod(0o600)
    run.may_hold(token_file, "bearer")
    options = ("--config", str(config), "--token-file", str(token_file))
    async with http_server(run.said / "mcp-http.txt", *options) as served:
        async with over_http(served.url, token=bearer) as client:
            await use_the_tools(run, client)
        async with httpx2.AsyncClient() as http:
            for headers in ({"Authorization": f"Bearer {WRONG_BEARER}"}, {"X-Token": WRONG_BEARER}):
                refused = await http.post(
                    served.url, headers=headers, params={"token": WRONG_BEARER}, json={"token": WRONG_BEARER}
                )
                assert refused.status_code == 401
                run.keep(repr(refused.headers) + refused.text)


@pytest.mark.parametrize("auth", ["nkey", pytest.param("password", marks=pytest.mark.long)])
async def test_the_secrets_of_a_run_are_only_in_their_own_files(tmp_path: Path, home: Path, auth: str) -> None:
    if auth == "password":
        pytest.importorskip("bcrypt")
    async with watching_processes() as seen, prepared(tmp_path, auth) as (run, server):
        for name, secret in {"wrong": WRONG, **dict(zip(PIECES, PIECES, strict=True))}.items():
            run.vault.keep(name, secret)
        main = run.here / "coordinator.toml"
        main_secret = (run.here / f"main.{run.suffix}").read_text(encoding="utf-8").strip()
        in_environment = new_seed()
        run.vault.keep("environment of the worker", in_environment)
        url = f"nats://agent-main:{in_environment}@127.0.0.1:1"

        async with noisy_worker(run, AGENTBUS_NATS_URL=url) as worker:
            await worker.until_said("ready for tasks")
            run.keep((await get(await url_of(worker))).text)
            async with over_stdio(run.said / "mcp.txt", "auto", "--config", str(main)) as client:
                await use_the_tools(run, client)
            await use_it_over_http(run, main)
            await use_the_commands(run)
            await use_the_bus_with_urls(run, server, main_secret)

            await run.types("agent", "rotate", "code", "--bus", run.bus)
            run.credential("code", "new code")
            await reload(server)
            assert await worker.exit_code() == 1
        async with noisy_worker(run) as late:
            assert await late.exit_code() == 1
        fresh = await run.bundle("code", "new code")
        await run.types("worker", "init", "--bundle", fresh, "--folder", run.there, "--renew")
        run.may_hold(run.there / f"code.{run.suffix}", "new code")
        async with noisy_worker(run) as again:
            await again.until_said("ready for tasks")
            await run.types("doctor", "--json", "--config", main, "--probe", "code", code=None)
            await run.types("doctor", "--role", "worker", "--config", run.there / "config.toml", code=None)
            os.kill(again.pid, signal.SIGABRT)  # faulthandler writes the stacks of all threads
            await again.exit_code()
            assert again.said("Fatal Python error")

        config, _ = load_coordinator(path=run.bus / "admin.toml")
        async with connect(connection_settings(config.nats, agent="admin", name="test")) as administrator:
            assert await in_streams(run.vault, administrator) == {}
    check_processes(run, seen)
    check_files(run, home)


def check_processes(run: Run, seen: Processes) -> None:
    """Only a URL of a command line or an environment is there, and the agent command has none."""
    for part in (b"nats-server", b"worker\0run", b"agentbus_mcp", b"agent.py", b"doctor"):
        assert any(part in line for line in seen.command_lines), part
    for line in seen.command_lines:
        assert not run.vault.found_in(line) or b"--nats-url" in line, line
        for environment in seen.environments[line]:
            variables = [variable for variable in environment.split(b"\0") if run.vault.found_in(variable)]
            assert all(variable.startswith(b"AGENTBUS_NATS_URL=") for variable in variables)
            assert not variables or b"agent.py" not in line


def check_files(run: Run, home: Path) -> None:
    found = in_files(run.vault, run.path, home, Path(os.environ["TMPDIR"]))
    assert {path: names for path, names in found.items() if names - run.allowed.get(path, set())} == {}
    assert set(found) == set(run.allowed), "what is kept is kept where it is looked for"
    assert [path for path in found if readable_by_others(path)] == []
    everything = [path for folder in (run.path, home) for path in folder.rglob("*") if path.is_file()]
    assert {"nats-server.log", "agentbus-worker.log"} <= {path.name for path in everything}
    assert [path for path in everything if path.suffix == ".blk"], "the files of the streams"


# -- the search finds what is there -----------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "x", "xx", "user:"])
@pytest.mark.parametrize("after", ["", "y", "yy"])
def test_the_search_finds_a_secret_in_every_encoding(before: str, after: str) -> None:
    vault = Vault()
    vault.keep("it", WRONG)
    text = f"{before}{WRONG}{after}"
    written = [
        text.encode(), quote(text, safe="").encode(), json.dumps(text).encode(), text.encode().hex().encode(),
        base64.b64encode(text.encode()), base64.urlsafe_b64encode(text.encode()),
    ]  # fmt: skip
    for data in written:
        assert vault.found_in(b"in front of " + data + b" behind it") == {"it"}, data
    assert vault.found_in(WRONG[:-1].encode()) == set()


async def test_the_search_finds_a_planted_secret_in_a_file_a_stream_a_command_line_and_an_environment(
    tmp_path: Path, server: NatsServer
) -> None:
    vault = Vault()
    vault.keep("it", WRONG)
    (tmp_path / "deep").mkdir()
    planted = tmp_path / "deep" / "file"
    planted.write_bytes(b"\0\xff" + WRONG.encode() + b"\xff")
    settings = connection_settings(NatsSection(url=server.url), agent="main", name="test")
    async with connect(settings) as bus, watching_processes() as seen:
        await bus.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
        for headers, data in ((None, b"harmless"), ({"Some-Header": WRONG}, b""), (None, WRONG.encode())):
            await bus.store("s", data, headers=headers)
        assert await in_streams(vault, bus) == {"S 2": {"it"}, "S 3": {"it"}}
        arguments = ["-c", "input()", WRONG]
        child = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, env={**os.environ, "IT": WRONG}
        )
        await eventually(lambda: any(map(vault.found_in, seen.command_lines)), "it is seen in a command line")
        await child.communicate(b"\n")
    found = in_files(vault, tmp_path)
    assert planted in found
    assert [path for path in found if path.suffix == ".blk"], "raw, in the files of the server"
    [line] = [line for line in seen.command_lines if vault.found_in(line)]
    assert any(vault.found_in(environment) for environment in seen.environments[line])
