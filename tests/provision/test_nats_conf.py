"""The shipped config/nats-server.conf on a real server: it is valid, denies what it does not grant, and keeps TLS.

That the whole main job passes on it is in test_least_permission.py.
"""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.bus.nats_client import Msg
from agentbus.config.connection_settings import Credentials, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import ApiError, AuthenticationError, BusUnavailableError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer, find_binary, run_server
from support.forbidden import denied, for_admin, for_agent, for_main
from support.harness import BOUND_S, eventually
from support.installation import CONF, Certificates, Sample, make_certificates, password, sample_bus, shipped_for
from support.tap import tapped

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def shipped(tmp_path: Path, certificates: Certificates) -> AsyncGenerator[Sample]:
    async with sample_bus(tmp_path, certificates) as bus:
        yield bus


# -- the file ---------------------------------------------------------------------------------------------------


def checked(config: Path) -> tuple[int, str]:
    """Check a file with `nats-server -t`; returns its exit code and its output."""
    done = subprocess.run(
        [find_binary(), "-t", "-c", config], check=False, capture_output=True, encoding="utf-8", timeout=BOUND_S
    )
    return done.returncode, done.stdout + done.stderr


def test_a_real_server_accepts_the_shipped_file(tmp_path: Path, certificates: Certificates) -> None:
    code, said = checked(shipped_for(tmp_path, certificates))
    assert (code, "is valid" in said) == (0, True), said


def test_the_server_does_not_start_without_its_certificate(tmp_path: Path, certificates: Certificates) -> None:
    missing = replace(certificates, cert=tmp_path / "missing.pem")
    code, said = checked(shipped_for(tmp_path, missing))
    assert (code, "missing.pem" in said) == (1, True), said


def test_the_shipped_file_has_the_documented_settings() -> None:
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
async def test_a_certificate_made_with_the_commands_in_the_file_is_accepted(tmp_path: Path) -> None:
    found = re.search(
        r"#\s+(openssl req .*?server-cert\.pem)$", CONF.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found
    recipe = re.sub(r"\\\n#\s+", "", found[1])
    await asyncio.to_thread(subprocess.run, recipe, shell=True, cwd=tmp_path, check=True, capture_output=True)
    made = Certificates(tmp_path / "server-cert.pem", tmp_path / "server-cert.pem", tmp_path / "server-key.pem")
    async with (
        run_server(store=tmp_path / "nats", config=shipped_for(tmp_path, made)) as server,
        connect(Sample(server, made).settings("admin")) as bus,
    ):
        assert await bus.api("INFO")


# -- what is denied ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "table"),
    [
        ("code", for_agent("code", "doc")),
        ("doc", for_agent("doc", "code")),
        ("main", for_main()),
        ("admin", for_admin()),
    ],
    ids=["code", "doc", "main", "admin"],
)
async def test_a_user_can_do_nothing_beyond_its_list(shipped: Sample, user: str, table: dict[str, str]) -> None:
    async with connect(shipped.settings(user)) as bus:
        done = [what for what, subject in table.items() if not await denied(bus, subject)]
    assert done == []
    assert len(shipped.violations()) == len(table)
    async with connect(shipped.settings("admin")) as admin:
        for stream in (subjects.TASKS_STREAM, subjects.RESULTS_STREAM, subjects.DEAD_STREAM, subjects.STATE_STREAM):
            assert (await admin.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"] == 0
        listed = await admin.api(f"CONSUMER.NAMES.{subjects.TASKS_STREAM}")
        assert sorted(listed["consumers"]) == ["agent-code", "agent-doc", "tasks-code", "tasks-doc"]


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
async def test_a_user_can_subscribe_only_to_the_subjects_of_its_list(shipped: Sample, user: str, subject: str) -> None:
    def ignore(message: Msg) -> None: ...

    async with connect(shipped.settings(user)) as bus:
        await bus.subscribe(subject, ignore)
        await eventually(shipped.violations, f"{user} is refused {subject}")
    [line] = shipped.violations()
    assert "Subscription Violation" in line
    assert f"agent-{user}" in line
    assert f'Subject "{subject}"' in line


async def test_the_filter_in_the_request_subject_of_a_consumer_cannot_be_widened_in_the_body(shipped: Sample) -> None:
    async with connect(shipped.settings("code")) as code:
        for body in ({"filter_subject": "agent.main.results"}, {"filter_subjects": ["agent.*.results"]}, {}):
            with pytest.raises(ApiError):
                await code.api(
                    "CONSUMER.CREATE.AGENT_RESULTS.f.agent.code.results",
                    {"stream_name": "AGENT_RESULTS", "config": {"name": "f", "ack_policy": "none", **body}},
                )


# -- TLS --------------------------------------------------------------------------------------------------------


async def test_tls_with_the_ca_of_the_server_works(shipped: Sample) -> None:
    async with tapped(shipped.port) as tap, connect(shipped.settings("main", port=tap.port)) as bus:
        assert bus.connected
        assert password("main").encode() not in tap.received[0]


async def test_without_the_ca_the_connection_fails_and_the_error_names_the_fix(shipped: Sample) -> None:
    with pytest.raises(BusUnavailableError, match=r"TLS with .* failed: .*; set ca_file in \[nats\] for a private CA"):
        async with connect(replace(shipped.settings("main"), ca_file=None)):
            pass


async def test_a_certificate_for_another_name_is_refused(shipped: Sample) -> None:
    with pytest.raises(BusUnavailableError, match=r"TLS with .* failed"):
        async with connect(
            connection_settings(
                NatsSection(url=shipped.url("main").replace("127.0.0.1", "localhost"), ca_file=shipped.ca),
                agent="main",
                name="test",
            )
        ):
            pass


async def test_no_credential_is_sent_to_a_server_without_tls(server: NatsServer, certificates: Certificates) -> None:
    async with tapped(int(server.url.rpartition(":")[2])) as tap:
        installation = Sample(server, certificates)
        with pytest.raises(BusUnavailableError, match="does not offer TLS, and tls:// was asked for"):
            async with connect(installation.settings("main", port=tap.port)):
                pass
        assert list(map(bytes, tap.received)) == [b""]


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("pause_s", [0, 0.05])
async def test_a_wrong_password_is_reported_although_the_server_closes_the_connection_at_once(
    shipped: Sample, monkeypatch: pytest.MonkeyPatch, retry: bool, pause_s: float
) -> None:
    drain = asyncio.StreamWriter.drain

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await drain(writer)
        await asyncio.sleep(
            pause_s
        )  # like a client without CPU time: the server has closed the connection when it sends again

    monkeypatch.setattr(asyncio.StreamWriter, "drain", slowly)
    settings = replace(shipped.settings("main"), credentials=Credentials("agent-main", "wrong"))
    with pytest.raises(AuthenticationError, match="refused the credentials of the user agent-main"):
        async with asyncio.timeout(BOUND_S), connect(settings, retry_on_failed_connect=retry):
            pass
