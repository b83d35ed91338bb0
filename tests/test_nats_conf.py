"""The shipped config/nats-server.conf on a real server: the whole main job passes, and everything else is denied."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mcp import Client

from agentbus import Coordinator, subjects
from agentbus.bus import Bus, connect
from agentbus.config import ConnectionSettings, NatsSection, connection_settings
from agentbus.deadletters import drop, newest_dead_letters, requeue
from agentbus.errors import ApiError, BusUnavailableError, PermissionDeniedError
from agentbus.files import read_file
from agentbus.registry import Presence, announce, withdraw
from agentbus.server import NatsServer, find_binary, run_server
from agentbus.streams import consumer_config, set_up
from agentbus.transport import Msg
from agentbus_mcp.link import Link
from agentbus_mcp.server import create_server
from harness import BOUND_S, ROOT, eventually, worker, worker_toml

CONF = ROOT / "config" / "nats-server.conf"


def password(user: str) -> str:
    return f"own-{user}-k3v9"


@dataclass(frozen=True)
class Certificates:
    """A CA, and a certificate that it gave to the server on 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip

    def certificate(name: x509.Name, holder: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        start = datetime.now(UTC) - timedelta(minutes=5)
        builder = (
            x509.CertificateBuilder(issuer, name, holder.public_key(), x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(holder.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if ca:
            builder = builder.add_extension(usage, critical=True)
        else:
            names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    found = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server-key.pem")
    found.ca.write_bytes(certificate(issuer, ca_key, ca=True))
    server = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agentbus")])
    found.cert.write_bytes(certificate(server, key, ca=False))
    found.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return found


def shipped_for(folder: Path, certificates: Certificates) -> Path:
    """The shipped file with nothing changed but ports, store, passwords and certificate paths."""
    text = CONF.read_text(encoding="utf-8")
    for old, new in {
        '"127.0.0.1:7422"': '"127.0.0.1:-1"',
        '"127.0.0.1:8222"': '"127.0.0.1:-1"',
        '"/data/jetstream"': f'"{folder / "jetstream"}"',
        '"/etc/agentbus/tls/server-cert.pem"': f'"{certificates.cert}"',
        '"/etc/agentbus/tls/server-key.pem"': f'"{certificates.key}"',
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    text, changed = re.subn(r'"CHANGE-ME-(\w+)"', lambda found: f'"{password(found[1])}"', text)
    assert changed == 4
    path = folder / "nats-server.conf"
    path.write_text(text, encoding="utf-8")
    return path


class Installation:
    """A server that runs from the shipped file, with its users."""

    def __init__(self, server: NatsServer, certificates: Certificates) -> None:
        self.server = server
        self.ca = certificates.ca
        self.port = int(server.url.rpartition(":")[2])

    def url(self, user: str, *, port: int | None = None) -> str:
        return f"tls://agent-{user}:{password(user)}@127.0.0.1:{port or self.port}"

    def settings(self, user: str, *, port: int | None = None) -> ConnectionSettings:
        section = NatsSection(url=self.url(user, port=port), ca_file=self.ca)
        return connection_settings(section, agent=user, name=f"test {user}", reconnect_wait_s=0.05)

    @asynccontextmanager
    async def coordinator(self, user: str) -> AsyncGenerator[Coordinator]:
        async with connect(self.settings(user)) as bus:
            yield Coordinator(bus, user)

    def worker_toml(self, folder: Path, agent: str) -> Path:
        return worker_toml(folder, self.url(agent), agent=agent, nats={"ca_file": self.ca})

    def violations(self) -> list[str]:
        return [line for line in self.server.log.read_text().splitlines() if "Violation" in line]


@pytest.fixture
async def shipped(tmp_path: Path, certificates: Certificates) -> AsyncGenerator[Installation]:
    """The shipped server with the agents code and doc set up by agent-admin; their leases last one second."""
    config = shipped_for(tmp_path, certificates)
    async with run_server(store=tmp_path / "nats", config=config) as server:
        installation = Installation(server, certificates)
        async with connect(installation.settings("admin")) as admin:
            await set_up(admin)
            for agent in ("code", "doc"):
                name = subjects.durable(agent)
                wanted = consumer_config(agent, name, ack_wait_s=1)
                await admin.create_consumer(subjects.TASKS_STREAM, name, wanted)
            found = await set_up(admin, ["code", "doc"])
        assert {item.outcome for item in found if item.kind == "consumer"} == {"different"}  # only in the lease
        assert {item.outcome for item in found if item.name.startswith("OBJ_")} == {"made"}
        yield installation


# -- the file ---------------------------------------------------------------------------------------------------


def judged(config: Path) -> tuple[int, str]:
    """What `nats-server -t` says of a file."""
    done = subprocess.run(
        [find_binary(), "-t", "-c", config], check=False, capture_output=True, text=True, timeout=BOUND_S
    )
    return done.returncode, done.stdout + done.stderr


def test_a_real_server_finds_the_shipped_file_valid(tmp_path: Path, certificates: Certificates) -> None:
    code, said = judged(shipped_for(tmp_path, certificates))
    assert (code, "is valid" in said) == (0, True), said


def test_the_server_does_not_start_without_its_certificate(tmp_path: Path, certificates: Certificates) -> None:
    missing = replace(certificates, cert=tmp_path / "missing.pem")
    code, said = judged(shipped_for(tmp_path, missing))
    assert (code, "missing.pem" in said) == (1, True), said


def test_the_shipped_file_says_what_the_documentation_promises() -> None:
    text = CONF.read_text(encoding="utf-8")
    settings = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for promised in (
        'listen: "127.0.0.1:7422"',
        'http: "127.0.0.1:8222"',
        'store_dir: "/data/jetstream"',
        "max_memory_store: 256MiB",
        "max_file_store: 10GiB",
        "sync_interval: always",
        "max_payload: 8MB",
    ):
        assert promised in settings
    assert re.findall(r'user: "([\w-]+)", password: "(.*?)"', settings) == [
        (f"agent-{user}", f"CHANGE-ME-{user}") for user in ("admin", "main", "code", "doc")
    ]
    assert "inside one account all parties must" in text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the recipe is for openssl")
async def test_a_certificate_made_as_the_file_says_is_good(tmp_path: Path) -> None:
    found = re.search(r"#\s+(openssl req .*?server-cert\.pem)$", CONF.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    recipe = re.sub(r"\\\n#\s+", "", found[1])
    await asyncio.to_thread(subprocess.run, recipe, shell=True, cwd=tmp_path, check=True, capture_output=True)
    made = Certificates(tmp_path / "server-cert.pem", tmp_path / "server-cert.pem", tmp_path / "server-key.pem")
    async with (
        run_server(store=tmp_path / "nats", config=shipped_for(tmp_path, made)) as server,
        connect(Installation(server, made).settings("admin")) as bus,
    ):
        assert await bus.api("INFO")


# -- what is allowed --------------------------------------------------------------------------------------------


async def test_the_whole_main_job_passes_without_one_violation(shipped: Installation, tmp_path: Path) -> None:
    async with (
        shipped.coordinator("main") as main,
        worker(shipped.worker_toml(tmp_path, "code")) as first,
        worker(shipped.worker_toml(tmp_path, "doc")),
        main.inbox() as watched,
    ):
        # To both, long enough to be renewed; results, inbox and ledger agree.
        tasks = await main.publish(["code", "doc"], "sleep:1.5 say:done", task_type="test", task_id="build.1.2")
        waited = await main.wait([task.id for task in tasks], timeout_s=BOUND_S)
        assert [waited.settled[task.id].state for task in tasks] == ["completed", "completed"]
        claim = waited.settled["build.1.2-code"].record.entry.claim
        assert claim
        assert claim.renewals > 0
        seen = {await _task_of_next(watched.next), await _task_of_next(watched.next)}
        assert seen == {task.id for task in tasks}
        assert {message.result and message.result.task_id for message in await main.results(newest=5)} == seen
        assert (await main.task("build.1.2-doc")).state == "completed"
        assert (await main.send(tasks[0])).known

        # A message that is no task: a dead letter for the administrator, a failed result for its sender.
        await main.bus.store("agent.code.tasks", b'{"id": "broken", "from": "agent-main"}', msg_id="code.broken")
        assert await _task_of_next(watched.next) == "broken"
        async with shipped.coordinator("admin") as admin:
            [letter] = await newest_dead_letters(admin.bus, 5)
            assert letter.data.startswith(b'{"id": "broken"')
            await requeue(admin.bus, letter.seq)
            [again] = await eventually(lambda: newest_dead_letters(admin.bus, 5), "it is a dead letter once more")
            await drop(admin.bus, again.seq)
        assert await _task_of_next(watched.next) == "broken"

        # The worker dies: another takes the task over once it is sure that nobody holds the lease.
        [task] = await main.publish("code", "sleep:1.5 say:again", task_type="test")
        await eventually(lambda: _is_working(main, task.id), "the task is being worked on")
        first.kill()
        async with worker(shipped.worker_toml(tmp_path, "code")):
            rescued = (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id]
            assert (rescued.state, rescued.record.entry.attempt) == ("completed", 2)
            assert await _task_of_next(watched.next) == task.id
    assert shipped.violations() == []


async def _task_of_next(following: Callable[[], Awaitable[object]]) -> str:
    async with asyncio.timeout(BOUND_S):
        message = await following()
    result = getattr(message, "result", None)
    return result.task_id if result else repr(message)


async def _is_working(main: Coordinator, task_id: str) -> bool:
    return (await main.task(task_id)).state == "working"


async def test_an_agent_reads_its_own_inbox(shipped: Installation, tmp_path: Path) -> None:
    async with shipped.coordinator("main") as main, worker(shipped.worker_toml(tmp_path, "code")):
        [task] = await main.publish("code", "say:for_doc", task_type="test", reply_to="doc")
        await main.wait([task.id], timeout_s=BOUND_S)
    async with shipped.coordinator("doc") as doc:
        [message] = await doc.results(newest=5)
        assert message.result
        assert (message.result.task_id, message.result.result) == (task.id, "for doc\n")
    assert shipped.violations() == []


async def test_a_task_is_cancelled_without_a_violation(shipped: Installation, tmp_path: Path) -> None:
    async with shipped.coordinator("main") as main:
        [queued] = await main.publish("code", "say:no", task_type="test")
        await main.cancel(queued.id, reason="not needed")
        async with worker(shipped.worker_toml(tmp_path, "code")):
            [running] = await main.publish("code", "sleep:30", task_type="test")
            await eventually(lambda: _is_working(main, running.id), "the second task is being worked on")
            await main.cancel(running.id)
            waited = await main.wait([queued.id, running.id], timeout_s=BOUND_S)
    assert [waited.settled[task.id].state for task in (queued, running)] == ["cancelled", "cancelled"]
    assert shipped.violations() == []


async def test_signs_of_life_and_control_messages_arrive(shipped: Installation) -> None:
    arrived: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        arrived.put_nowait(message.subject)

    async with shipped.coordinator("main") as main, shipped.coordinator("code") as code:
        for subject in ("agent.*.heartbeat", "agent.*.progress.>"):
            await main.bus.subscribe(subject, hear)
        await code.bus.subscribe("agent.code.control", hear)
        for bus in (main.bus, code.bus):  # once an answer has come, the server has handled all that was sent before
            await bus.last_message(subjects.STATE_STREAM, "$KV.AGENT_STATE.code.none")
        await code.bus.publish("agent.code.progress.task.1")
        await main.bus.publish("agent.code.control")
        here = Presence(
            agent="code", instance="host-1", host="host", pid=1, version="1", slots=1, free=1, started_at="now"
        )
        await announce(code.bus, here)
        async with asyncio.timeout(BOUND_S):
            heard = {await arrived.get() for _ in range(3)}
        assert heard == {"agent.code.progress.task.1", "agent.code.control", "agent.code.heartbeat"}
        assert [(agent["agent"], agent["online"]) for agent in await main.overview()] == [
            ("code", True),
            ("doc", False),
        ]
        assert [one.instance for one in await main.agents("code")] == ["host-1"]
        await withdraw(code.bus, here)
        assert await main.agents() == []
    assert shipped.violations() == []


async def test_a_large_output_is_stored_by_the_worker_and_read_by_the_coordinator(
    shipped: Installation, tmp_path: Path
) -> None:
    async with shipped.coordinator("main") as main, worker(shipped.worker_toml(tmp_path, "code")):
        [task] = await main.publish("code", "bytes:700000", task_type="test")
        result = (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].result
        assert result
        file = result.to_json()["output"]["file"]
        assert file["bucket"] == "AGENT_FILES_code"
        read = [chunk async for chunk in read_file(main.bus, "code", file["name"])]
    assert b"".join(read) == b"x" * 700_000
    assert shipped.violations() == []


async def test_the_coordinator_sees_the_backlog_and_its_own_inbox_over_mcp(shipped: Installation) -> None:
    async with shipped.coordinator("main") as main:
        [task] = await main.publish("code", "later", task_type="test")
    link = Link(shipped.settings("main"), "main")
    async with link.open(), Client(create_server(link)) as client:
        tasks = await _read_resource(client, "agentbus://streams/AGENT_TASKS")
        assert shipped.violations() == []
        results = await _read_resource(client, "agentbus://streams/AGENT_RESULTS")
    assert tasks["state"]["messages"] == 1
    assert [consumer["name"] for consumer in tasks["consumers"]] == ["agent-code", "agent-doc"]
    assert [newest["task_id"] for newest in tasks["newest"]] == [task.id]
    # Other inboxes are not main's to read, and neither are the names of those who read there.
    assert (results["newest"], results["not_permitted"]) == ([], ["consumers"])


async def _read_resource(client: Client, uri: str) -> dict[str, Any]:
    [content] = (await client.read_resource(uri)).contents
    return json.loads(getattr(content, "text", ""))


# -- what is denied ---------------------------------------------------------------------------------------------

_ACK = "1.1.1.1700000000000000000.0"


def forbidden_for_an_agent(me: str, other: str) -> dict[str, str]:
    """What the workers of `me` may not do: what it is called, and the subject it takes."""
    return {
        "pull another agent's tasks": f"$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-{other}",
        "look at another agent's consumer": f"$JS.API.CONSUMER.INFO.AGENT_TASKS.agent-{other}",
        "ack another agent's task": f"$JS.ACK.AGENT_TASKS.agent-{other}.{_ACK}",
        "ack another agent's task, in the newer form": f"$JS.ACK._.hash.AGENT_TASKS.agent-{other}.{_ACK}",
        "give a task to another agent": f"agent.{other}.tasks",
        "give a task to itself": f"agent.{me}.tasks",
        "write another agent's ledger": f"$KV.AGENT_STATE.{other}.task-1",
        "read another agent's ledger": f"$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.{other}.task-1",
        "watch its own ledger": f"$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.f.$KV.AGENT_STATE.{me}.>",
        "write another agent's dead letters": f"agent.{other}.dead",
        "read dead letters": f"$JS.API.CONSUMER.CREATE.AGENT_DEAD.f.agent.{me}.dead",
        "register as another agent": f"$KV.AGENT_REGISTRY.{other}.host-1",
        "send another agent's heartbeat": f"agent.{other}.heartbeat",
        "send another agent's progress": f"agent.{other}.progress.task-1",
        "control another agent's workers": f"agent.{other}.control",
        "control its own workers": f"agent.{me}.control",
        "write another agent's files": f"$O.AGENT_FILES_{other}.C.x",
        "replace another agent's file": f"$O.AGENT_FILES_{other}.M.x",
        "read files": f"$JS.API.DIRECT.GET.OBJ_AGENT_FILES_{me}.$O.AGENT_FILES_{me}.M.x",
        "read the coordinator's inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.main.results",
        "read another agent's inbox": f"$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.{other}.results",
        "read all inboxes": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.*.results",
        "read an inbox without a filter": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f",
        "read the last of the coordinator's inbox": "$JS.API.DIRECT.GET.AGENT_RESULTS.agent.main.results",
        "read any result by its sequence": "$JS.API.DIRECT.GET.AGENT_RESULTS",
        "make a consumer of its tasks": f"$JS.API.CONSUMER.CREATE.AGENT_TASKS.mine.agent.{me}.tasks",
        "make a durable": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_TASKS.mine",
        "read any task by its sequence": "$JS.API.STREAM.MSG.GET.AGENT_TASKS",
        "read any task by its sequence, in the newer way": "$JS.API.DIRECT.GET.AGENT_TASKS",
        "list the consumers of the tasks": "$JS.API.CONSUMER.LIST.AGENT_TASKS",
        "delete another agent's consumer": f"$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-{other}",
        "delete its own consumer": f"$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-{me}",
        **_administration(),
    }


def forbidden_for_main() -> dict[str, str]:
    return {
        "pull an agent's tasks": "$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-code",
        "ack for an agent": f"$JS.ACK.AGENT_TASKS.agent-code.{_ACK}",
        "ack for an agent, in the newer form": f"$JS.ACK._.hash.AGENT_TASKS.agent-code.{_ACK}",
        "put a result into an agent's inbox": "agent.code.results",
        "write an agent's dead letters": "agent.code.dead",
        "read dead letters": "$JS.API.CONSUMER.CREATE.AGENT_DEAD.f.agent.code.dead",
        "register as an agent": "$KV.AGENT_REGISTRY.code.host-1",
        "send an agent's heartbeat": "agent.code.heartbeat",
        "write an agent's files": "$O.AGENT_FILES_code.C.x",
        "replace an agent's file": "$O.AGENT_FILES_code.M.x",
        "read any chunk by its sequence": "$JS.API.DIRECT.GET.OBJ_AGENT_FILES_code",
        "read an agent's inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.code.results",
        "read all inboxes": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.*.results",
        "read an inbox without a filter": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f",
        "read any result by its sequence": "$JS.API.DIRECT.GET.AGENT_RESULTS",
        "read the last of an agent's inbox": "$JS.API.DIRECT.GET.AGENT_RESULTS.agent.code.results",
        "make a consumer of an agent's tasks": "$JS.API.CONSUMER.CREATE.AGENT_TASKS.mine.agent.code.tasks",
        "make a durable": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_TASKS.mine",
        "make a durable in the old way": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_RESULTS.mine",
        "delete an agent's consumer": "$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-code",
        **_administration(),
    }


def forbidden_for_admin() -> dict[str, str]:
    return {
        "put a result into an inbox": "agent.main.results",
        "write the ledger": "$KV.AGENT_STATE.code.task-1",
        "register as an agent": "$KV.AGENT_REGISTRY.code.host-1",
        "write a dead letter": "agent.code.dead",
        "write an agent's files": "$O.AGENT_FILES_code.C.x",
        "ack for an agent": f"$JS.ACK.AGENT_TASKS.agent-code.{_ACK}",
        "control an agent's workers": "agent.code.control",
        "look into the server": "$SYS.REQ.SERVER.PING",
    }


def _administration() -> dict[str, str]:
    return {
        "create a stream": "$JS.API.STREAM.CREATE.MINE",
        "update a stream": "$JS.API.STREAM.UPDATE.AGENT_TASKS",
        "delete a stream": "$JS.API.STREAM.DELETE.AGENT_RESULTS",
        "purge the tasks": "$JS.API.STREAM.PURGE.AGENT_TASKS",
        "purge the results": "$JS.API.STREAM.PURGE.AGENT_RESULTS",
        "purge the ledger": "$JS.API.STREAM.PURGE.KV_AGENT_STATE",
        "read any result by its sequence, in the old way": "$JS.API.STREAM.MSG.GET.AGENT_RESULTS",
        "read any ledger entry by its sequence": "$JS.API.STREAM.MSG.GET.KV_AGENT_STATE",
        "delete a task": "$JS.API.STREAM.MSG.DELETE.AGENT_TASKS",
        "delete a result": "$JS.API.STREAM.MSG.DELETE.AGENT_RESULTS",
        "list streams": "$JS.API.STREAM.NAMES",
        "list those who read results": "$JS.API.CONSUMER.LIST.AGENT_RESULTS",
        "list the names of those who read results": "$JS.API.CONSUMER.NAMES.AGENT_RESULTS",
        "look at the account": "$JS.API.INFO",
        "put a message into no stream at all": "anything.else",
    }


@pytest.mark.parametrize(
    ("user", "table"),
    [
        ("code", forbidden_for_an_agent("code", "doc")),
        ("doc", forbidden_for_an_agent("doc", "code")),
        ("main", forbidden_for_main()),
        ("admin", forbidden_for_admin()),
    ],
    ids=["code", "doc", "main", "admin"],
)
async def test_a_user_can_do_nothing_beyond_its_list(shipped: Installation, user: str, table: dict[str, str]) -> None:
    async with connect(shipped.settings(user)) as bus:
        done = [what for what, subject in table.items() if not await _denied(bus, subject)]
    assert done == []
    assert len(shipped.violations()) == len(table)
    async with connect(shipped.settings("admin")) as admin:
        for stream in (subjects.TASKS_STREAM, subjects.RESULTS_STREAM, subjects.DEAD_STREAM, subjects.STATE_STREAM):
            assert (await admin.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"] == 0
        listed = await admin.api(f"CONSUMER.NAMES.{subjects.TASKS_STREAM}")
        assert sorted(listed["consumers"]) == ["agent-code", "agent-doc"]


async def _denied(bus: Bus, subject: str) -> bool:
    try:
        await bus.request(subject, b"{}", timeout_s=2)
    except PermissionDeniedError:
        return True
    except BusUnavailableError:
        return False
    return False


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("code", "_INBOX_main.>"),
        ("code", "_INBOX_doc.>"),
        ("code", "_INBOX.>"),
        ("code", "agent.code.tasks"),
        ("code", "agent.doc.tasks"),
        ("code", "agent.main.results"),
        ("code", "agent.doc.control"),
        ("code", "$KV.AGENT_STATE.>"),
        ("code", ">"),
        ("doc", "_INBOX_code.>"),
        ("doc", "agent.*.control"),
        ("main", "_INBOX_code.>"),
        ("main", "_INBOX_admin.>"),
        ("main", "agent.*.tasks"),
        ("main", "agent.*.results"),
        ("main", "$JS.EVENT.>"),
        ("main", "$JS.API.>"),
        ("admin", "_INBOX_main.>"),
        ("admin", "agent.>"),
    ],
)  # fmt: skip
async def test_a_user_can_listen_only_where_its_list_says(shipped: Installation, user: str, subject: str) -> None:
    async def ignore(message: Msg) -> None: ...

    async with connect(shipped.settings(user)) as bus:
        await bus.subscribe(subject, ignore)
        await eventually(shipped.violations, f"{user} is refused {subject}")
    [line] = shipped.violations()
    assert "Subscription Violation" in line
    assert f"agent-{user}" in line
    assert f'Subject "{subject}"' in line


async def test_the_filter_in_a_consumers_subject_cannot_be_widened_in_its_body(shipped: Installation) -> None:
    async with connect(shipped.settings("code")) as code:
        for body in ({"filter_subject": "agent.main.results"}, {"filter_subjects": ["agent.*.results"]}, {}):
            with pytest.raises(ApiError):
                await code.api(
                    "CONSUMER.CREATE.AGENT_RESULTS.f.agent.code.results",
                    {"stream_name": "AGENT_RESULTS", "config": {"name": "f", "ack_policy": "none", **body}},
                )


# -- TLS --------------------------------------------------------------------------------------------------------


class Tap:
    """Stands between client and server: keeps what clients send, and can take the offer of TLS out of INFO."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._connections: set[asyncio.Task[None]] = set()
        self.strip = False
        self.port = 0
        self.received: list[bytearray] = []
        self.received_stripped: list[bytearray] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        strip, sent = self.strip, bytearray()
        (self.received_stripped if strip else self.received).append(sent)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            info = await server_reader.readline()
            if strip:
                offer = json.loads(info.removeprefix(b"INFO "))
                plain = {key: value for key, value in offer.items() if not key.startswith("tls")}
                info = b"INFO " + json.dumps(plain).encode() + b"\r\n"
            writer.write(info)
            ways = [
                asyncio.create_task(_pump(reader, server_writer, sent)),
                asyncio.create_task(_pump(server_reader, writer, bytearray())),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            writer.close()
            server_writer.close()
            await asyncio.gather(writer.wait_closed(), server_writer.wait_closed(), return_exceptions=True)

    async def cut(self) -> None:
        """Break all connections."""
        connections = tuple(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, copy: bytearray) -> None:
    while data := await reader.read(65536):
        copy += data
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def tapped(upstream: int) -> AsyncGenerator[Tap]:
    tap = Tap(upstream)
    listener = await asyncio.start_server(tap.accept, "127.0.0.1", 0)
    tap.port = listener.sockets[0].getsockname()[1]
    try:
        yield tap
    finally:
        listener.close()
        await tap.cut()
        await listener.wait_closed()


async def test_tls_with_the_ca_of_the_server_works(shipped: Installation) -> None:
    async with tapped(shipped.port) as tap, connect(shipped.settings("main", port=tap.port)) as bus:
        assert bus.connected
        assert password("main").encode() not in tap.received[0]


async def test_without_the_ca_the_connection_fails_and_the_error_names_the_fix(shipped: Installation) -> None:
    with pytest.raises(BusUnavailableError, match=r"TLS with .* failed: .*; set ca_file in \[nats\] for a private CA"):
        async with connect(replace(shipped.settings("main"), ca_file=None)):
            pass


async def test_a_certificate_for_another_name_is_refused(shipped: Installation) -> None:
    with pytest.raises(BusUnavailableError, match=r"TLS with .* failed"):
        async with connect(
            connection_settings(
                NatsSection(url=shipped.url("main").replace("127.0.0.1", "localhost"), ca_file=shipped.ca),
                agent="main",
                name="test",
            )
        ):
            pass


async def test_no_credential_goes_to_a_server_that_has_no_tls(server: NatsServer, certificates: Certificates) -> None:
    async with tapped(int(server.url.rpartition(":")[2])) as tap:
        installation = Installation(server, certificates)
        with pytest.raises(BusUnavailableError, match="does not offer TLS, and tls:// was asked for"):
            async with connect(installation.settings("main", port=tap.port)):
                pass
        assert list(map(bytes, tap.received)) == [b""]


async def test_no_credential_goes_out_when_somebody_takes_away_the_offer_of_tls(shipped: Installation) -> None:
    async with tapped(shipped.port) as tap:
        tap.strip = True
        with pytest.raises(BusUnavailableError, match="does not offer TLS, and tls:// was asked for"):
            async with connect(shipped.settings("main", port=tap.port)):
                pass
        assert list(map(bytes, tap.received_stripped)) == [b""]


async def test_a_worker_sends_no_credential_at_a_reconnect_without_tls(shipped: Installation, tmp_path: Path) -> None:
    async with tapped(shipped.port) as tap:
        config = worker_toml(tmp_path, shipped.url("code", port=tap.port), nats={"ca_file": shipped.ca})
        async with worker(config) as process:
            tap.strip = True
            await tap.cut()
            await eventually(lambda: len(tap.received_stripped) > 1, "the worker has tried to come back twice")
            await process.until_said("the server does not offer TLS, and tls:// was asked for; no credential was sent")
            tap.strip = False
            await eventually(lambda: process.log.read_text().count("connected to nats-server") == 2, "it is back")
        assert set(map(bytes, tap.received_stripped)) == {b""}
        assert all(password("code").encode() not in sent for sent in tap.received)
