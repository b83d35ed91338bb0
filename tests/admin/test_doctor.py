"""`agentbus doctor` confirms what is right, finds every kind of fault, and leaves nothing on the bus."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.config.toml_text import toml_text
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import SUPPORT, run_cli, worker, worker_toml
from support.installation import Installed, Sample, make_certificates, own_bus, sample_bus

pytestmark = pytest.mark.posix("not tried on Windows")

ODD_CLOCK = str(SUPPORT / "odd_clock.py")


@pytest.fixture
async def shipped(tmp_path: Path) -> AsyncGenerator[Sample]:
    async with sample_bus(tmp_path, make_certificates(tmp_path)) as bus:
        yield bus


async def examine(*arguments: str, code: int = 0, **env: str) -> list[dict[str, Any]]:
    done = await run_cli("doctor", "--json", *arguments, env=env)
    assert done.code == code, done.out + done.err
    return [json.loads(line) for line in done.out.splitlines()]


async def examine_at(clock: Path, *arguments: str) -> list[dict[str, Any]]:
    """By a clock that is wrong by the seconds in a file."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, ODD_CLOCK, clock, "doctor", "--json", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return [json.loads(line) for line in out.splitlines()]


def wrong(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What is not ok, but for the warning of an old server, with which the tests are run as well."""
    return [
        (finding["check"], finding["verdict"])
        for finding in findings
        if finding["verdict"] != "ok" and not (finding["check"] == "server" and " 2.10." in finding["text"])
    ]


def of(findings: list[dict[str, Any]], check: str) -> dict[str, Any]:
    [found] = [finding for finding in findings if finding["check"] == check]
    return found


def coordinator_toml(folder: Path, bus: Installed, user: str = "main", **nats: Any) -> Path:
    path = folder / f"{user}.toml"
    path.write_text(toml_text({"nats": {**bus.nats(user), **nats}, "coordinator": {"id": user}}), encoding="utf-8")
    path.chmod(0o600)
    return path


async def contents(coordinator: Coordinator) -> dict[str, int]:
    """How many messages there are in each stream, and of how many there have been."""
    found: dict[str, int] = {}
    for item in (await coordinator.bus.api("STREAM.LIST"))["streams"]:
        found[item["config"]["name"]] = item["state"]["messages"] * 1_000_000 + item["state"]["last_seq"]
    return found


# -- what is right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["the shipped configuration", "a bus of agentbus init"])
async def test_every_role_is_well_and_nothing_is_left_on_the_bus(tmp_path: Path, kind: str):
    shipped = kind == "the shipped configuration"
    async with (
        sample_bus(tmp_path, make_certificates(tmp_path)) if shipped else own_bus(tmp_path) as bus,
        bus.coordinator("admin") as admin,
    ):
        before = await contents(admin)
        main = await examine("--config", str(coordinator_toml(tmp_path, bus)))
        code = await examine("--role", "worker", "--config", str(bus.worker_toml(tmp_path, "code")))
        boss = await examine("--role", "administrator", "--config", str(coordinator_toml(tmp_path, bus, "admin")))
        assert await contents(admin) == before
    assert wrong(main) == []
    assert wrong(code) == []
    assert wrong(boss) == [("streams", "warning")] * 2  # the leases of a second, which the test has chosen
    leases = [finding["text"] for finding in boss if finding["check"] == "streams" and finding["verdict"] == "warning"]
    assert all("ack_wait" in text for text in leases)
    assert of(main, "sign-in")["text"].startswith("as agent-main" if shipped else "with an nkey")
    assert "valid until" in of(main, "tls")["text"]
    assert of(code, "limits")["text"] == "nothing that a worker must not do"
    said = json.dumps([main, code, boss])
    assert "k3v9" not in said, "a password"


async def test_a_local_bus_without_users_is_well_and_reported_as_open(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    findings = await examine("--nats-url", server.url)
    assert wrong(findings) == []
    assert "every user of this machine" in of(findings, "limits")["text"]
    assert of(findings, "configuration")["text"] == "--nats-url"


async def test_a_probe_goes_through_a_real_worker(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    findings = await examine("--nats-url", server.url, "--probe", "code", code=1)
    assert "no worker of code is alive" in of(findings, "round trip")["text"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "echo pong", "sh", "{input}"])):
        findings = await examine("--nats-url", server.url, "--probe", "code")
    assert of(findings, "round trip") == {"check": "round trip", "verdict": "ok", "text": "code answered: 'pong'"}
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "exit 7", "sh", "{input}"])):
        findings = await examine("--nats-url", server.url, "--probe", "code", code=1)
    assert "exited with status 7" in of(findings, "round trip")["text"]


# -- what is wrong ----------------------------------------------------------------------------------------------


async def test_a_configuration_that_cannot_be_used_is_the_only_finding(tmp_path: Path):
    path = tmp_path / "agentbus.toml"
    path.write_text("[nats]\nurll = 'nats://127.0.0.1:1'\n", encoding="utf-8")
    [finding] = await examine("--config", str(path), code=1)
    assert (finding["check"], finding["verdict"]) == ("configuration", "failed")
    assert "url" in finding["text"]


@pytest.mark.parametrize(
    ("url", "check", "text"),
    [
        ("nats://no-such-host.invalid:4222", "name", "no-such-host.invalid"),
        ("nats://127.0.0.1:1", "tcp", "refused"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_named_with_the_step_that_failed(url: str, check: str, text: str):
    findings = await examine("--nats-url", url, code=1)
    assert wrong(findings) == [(check, "failed")]
    assert text in of(findings, check)["text"]
    assert of(findings, check)["fix"]


async def test_a_port_on_which_something_else_listens_is_not_taken_for_a_nats_server():
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        findings = await examine("--nats-url", f"nats://127.0.0.1:{port}", code=1)
    assert "no NATS server" in of(findings, "greeting")["text"]


async def test_tls_is_checked_before_the_credentials(tmp_path: Path, shipped: Sample, server: NatsServer):
    no_ca = tmp_path / "no-ca.toml"
    no_ca.write_text(toml_text({"nats": {"url": shipped.url("main")}}), encoding="utf-8")
    no_ca.chmod(0o600)
    findings = await examine("--config", str(no_ca), code=1)
    assert of(findings, "tls")["verdict"] == "failed"
    assert "ca_file" in of(findings, "tls")["fix"]
    stripped = server.url.replace("nats://", "tls://")
    findings = await examine("--nats-url", stripped, code=1)
    assert "offers no TLS" in of(findings, "tls")["text"]


async def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path, shipped: Sample):
    ends = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes()).not_valid_after_utc
    clock = tmp_path / "clock"
    clock.write_text(str(ends.timestamp() - time.time() - 3 * 86_400), encoding="utf-8")
    findings = await examine_at(clock, "--config", str(coordinator_toml(tmp_path, shipped)))
    assert of(findings, "tls")["verdict"] == "warning"
    assert "renew it" in of(findings, "tls")["fix"]


async def test_refused_credentials_are_reported_and_not_shown(tmp_path: Path, shipped: Sample):
    url = shipped.url("main").replace("own-main-k3v9", "wrong-k3v9")
    findings = await examine("--config", str(coordinator_toml(tmp_path, shipped, url=url)), code=1)
    assert wrong(findings) == [("sign-in", "failed")]
    assert "refused the credentials" in of(findings, "sign-in")["text"]
    assert "k3v9" not in json.dumps(findings)


async def test_missing_and_excessive_permissions_are_both_found(tmp_path: Path):
    config = tmp_path / "nats.conf"
    users = [
        {"user": "admin", "password": "a"},
        {
            "user": "main",
            "password": "b",
            "permissions": {"publish": {"deny": ["agent.*.control", "$KV.AGENT_STATE.>"]}},
        },
    ]
    config.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(tmp_path / 'nats'))} }}\n"
        f"authorization {{ users: {json.dumps(users)} }}\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as running:
        where = running.url.removeprefix("nats://")
        findings = await examine("--nats-url", f"nats://admin:a@{where}", code=1)
        assert {
            finding["text"].partition(" does not exist")[0] for finding in findings if finding["check"] == "streams"
        } == {
            "the stream AGENT_TASKS",
            "the stream AGENT_RESULTS",
        }
        async with connect(f"nats://admin:a@{where}") as admin:
            await set_up(admin.bus)
        findings = await examine("--nats-url", f"nats://main:b@{where}", code=1)
    refused = of(findings, "permissions")
    assert refused["verdict"] == "failed"
    assert "agent.*.control" in refused["text"]
    assert "$KV.AGENT_STATE.>" in refused["text"]
    assert "agent.*.tasks" not in refused["text"]
    assert of(findings, "limits")["verdict"] == "warning"
    assert "delete streams" in of(findings, "limits")["text"]


@pytest.mark.posix("workers run on POSIX systems")
async def test_what_a_worker_needs_of_its_machine_is_checked(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["no-such-agent", "{input}"])
    findings = await examine("--role", "worker", "--config", str(config), code=1)
    assert "not on the PATH" in of(findings, "chat_cmd")["text"]
    assert "agentbus setup --agent code" in of(findings, "consumer")["fix"]

    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\necho agent 1.2.3\n", encoding="utf-8")
    program.chmod(0o755)
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    keys = {"state_dir": file / "state"}
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(program), "{input}"], worker=keys)
    findings = await examine("--role", "worker", "--config", str(config), code=1)
    assert of(findings, "chat_cmd")["text"] == f"{program}: agent 1.2.3"
    assert str(file) in of(findings, "state_dir")["text"]
    assert of(findings, "state_dir")["verdict"] == "failed"


@pytest.mark.posix("file modes are POSIX")
async def test_a_secret_that_others_can_read_is_a_warning_with_the_command_that_repairs_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    secret = tmp_path / "password"
    secret.write_text("k3v9\n", encoding="utf-8")
    secret.chmod(0o644)
    config = tmp_path / "coordinator.toml"
    config.write_text(
        toml_text({"nats": {"url": server.url, "user": "main", "password_file": secret}}), encoding="utf-8"
    )
    findings = await examine("--config", str(config))
    assert of(findings, "files")["verdict"] == "warning"
    assert f"chmod 600 {secret}" in of(findings, "files")["text"]


@pytest.mark.parametrize(("offset", "said"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_wrong_clock_is_reported(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, offset: int, said: str
):
    clock = tmp_path / "clock"
    clock.write_text(str(offset), encoding="utf-8")
    finding = of(await examine_at(clock, "--nats-url", server.url), "clock")
    assert finding["verdict"] == "warning"
    assert f"this machine is 3600.0 s {said} the server" in finding["text"] or "3599.9" in finding["text"]


async def test_an_agent_command_that_does_not_start_or_answer_is_found(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    program = tmp_path / "agent"
    program.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    program.chmod(0o755)
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(program), "{input}"])
    found = of(await examine("--role", "worker", "--config", str(config), code=1), "chat_cmd")
    assert (found["verdict"], found["fix"]) == ("failed", "install it again")
    assert found["text"].startswith(f"{program} cannot be started: ")
    program.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    found = of(await examine("--role", "worker", "--config", str(config), code=1), "chat_cmd")
    assert (found["verdict"], found["text"]) == ("warning", f"{program} does not answer to --version")


async def test_a_durable_of_another_agent_is_found(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code", "doc"])
    config = worker_toml(tmp_path, server.url, nats={"durable": "agent-doc"})
    found = of(await examine("--role", "worker", "--config", str(config), code=1), "consumer")
    assert (found["verdict"], found["text"]) == ("failed", "the consumer agent-doc takes agent.doc.tasks")
    assert "durable" in found["fix"]


async def test_what_a_user_may_not_look_at_is_a_failure_that_says_what_to_grant(tmp_path: Path):
    config = tmp_path / "nats.conf"
    denied = {"deny": ["$JS.API.CONSUMER.INFO.>", "$JS.API.STREAM.INFO.>"]}
    users = [
        {"user": "admin", "password": "a"},
        {"user": "blind", "password": "b", "permissions": {"publish": denied}},
    ]
    config.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(tmp_path / 'nats'))} }}\n"
        f"authorization {{ users: {json.dumps(users)} }}\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as running:
        where = running.url.removeprefix("nats://")
        async with connect(f"nats://admin:a@{where}") as admin:
            await set_up(admin.bus, ["code"])
        worker_config = worker_toml(tmp_path, f"nats://blind:b@{where}")
        as_worker = await examine("--role", "worker", "--config", str(worker_config), code=1)
        as_main = await examine("--nats-url", f"nats://blind:b@{where}", code=1)
    for findings, check in ((as_worker, "consumer"), (as_main, "streams")):
        found = of(findings, check)
        assert found["verdict"] == "failed"
        assert found["fix"].startswith("grant it")
        assert "clock" not in {finding["check"] for finding in findings}


async def test_a_stream_that_is_nearly_full_is_a_warning(server: NatsServer, coordinator: Coordinator):
    bus = coordinator.bus
    config = (await bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_bytes": 1 << 20})
    await bus.store("agent.main.results", b"x" * 950_000, msg_id="large")
    found = of(await examine("--nats-url", server.url), "room")
    assert found["verdict"] == "warning"
    assert found["text"].startswith("AGENT_RESULTS holds 9")
    assert found["text"].endswith("% of its 1 MiB")


async def test_a_server_that_is_reached_in_the_clear_is_a_warning(server: NatsServer, coordinator: Coordinator):
    """The address 0.0.0.0 leads to this machine, and does not look like it."""
    port = server.url.rpartition(":")[2]
    findings = await examine("--nats-url", f"nats://0.0.0.0:{port}")
    assert of(findings, "tls")["verdict"] == "warning"
    assert "in the clear" in of(findings, "tls")["text"]


async def test_a_probe_on_a_bus_that_was_not_set_up_fails_with_the_command_that_does_it(server: NatsServer):
    findings = await examine("--nats-url", server.url, "--probe", "code", code=1)
    assert of(findings, "round trip")["verdict"] == "failed"
    assert "agentbus setup" in of(findings, "round trip")["text"]


INFO = b'INFO {"server_id":"x","version":"2.12.0","max_payload":1000000,"headers":true,"tls_available":true}\r\n'


@asynccontextmanager
async def greeting_server(greeting: bytes, *, then_close: bool = False) -> AsyncGenerator[str]:
    """Listen, greet each client, and either read in silence or close once the client sends something."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(65_536) and not then_close:
            pass
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_greeting_that_is_not_json_is_not_taken_for_a_nats_server():
    async with greeting_server(b"INFO {oops\r\n") as address:
        findings = await examine("--nats-url", f"nats://{address}", code=1)
    assert "no NATS server" in of(findings, "greeting")["text"]


async def test_a_server_that_greets_and_then_says_nothing_fails_at_the_sign_in():
    async with greeting_server(INFO) as address:
        findings = await examine("--nats-url", f"nats://{address}", code=1)
    assert wrong(findings) == [("sign-in", "failed")]
    assert "did not answer within" in of(findings, "sign-in")["text"]


async def test_a_server_that_closes_in_the_tls_handshake_fails_at_tls():
    async with greeting_server(INFO, then_close=True) as address:
        findings = await examine("--nats-url", f"tls://{address}", code=1)
    assert of(findings, "tls")["verdict"] == "failed"
    assert "TLS with" in of(findings, "tls")["text"]


async def test_people_get_a_line_for_each_finding_with_the_fix_under_it():
    done = await run_cli("doctor", "--nats-url", "nats://127.0.0.1:1")
    assert done.code == 1
    assert done.err == ""
    assert done.out.splitlines()[0].split() == ["ok", "configuration", "--nats-url"]
    assert done.out.splitlines()[-2].startswith("failed   tcp           nats://127.0.0.1:1: ")
    assert done.out.splitlines()[-1].strip().startswith("-> start the server")
    usage = await run_cli("doctor", "--role", "worker", "--probe", "code")
    assert usage.code == 2
