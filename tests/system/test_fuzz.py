"""Input from the bus and from files is untrusted: it is accepted, or refused with an error of `agentbus.errors`."""

import base64
import json
import logging
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from agentbus.admin import dead_letters
from agentbus.bus.pull_consumer import Delivery
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator, load_worker
from agentbus.config.nkeys import check_seed, expiry, read_creds
from agentbus.config.schema import NatsSection
from agentbus.config.toml_text import toml_text
from agentbus.config.urls import parse_urls
from agentbus.errors import AgentBusError, ConfigError, CorruptEntryError, MessageError
from agentbus.observability import tracing
from agentbus.protocol import ids, subjects
from agentbus.protocol.headers import LEDGER_REVISION, MSG_ID, REVISION
from agentbus.protocol.ids import make_result_id
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import read_entry
from agentbus.protocol.messages import decode_result, decode_task, new_result, new_task
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.bundle import read_bundle
from agentbus.tasks import output_store, presence
from agentbus.tasks.approvals import question
from agentbus.tasks.incoming import read_delivery
from agentbus_mcp import uris
from agentbus_mcp.resources.listing import decode_cursor
from agentbus_mcp.task_extension import records
from agentbus_mcp.task_extension.approval_requests import read_decision
from agentbus_mcp.task_extension.stored_wait import StoredWait
from agentbus_worker.settling.outbox import Outbox

pytestmark = pytest.mark.posix("not tried on Windows")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**18, max_value=10**30)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["", "agent-code", "agent-", "a.b", "a b", "\x00", "\ud800", "x" * 300, "*", ">", "2026-01-01"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
)
DIGITS = st.sampled_from(["", "7", "-1", "+7", "07", "7" * 30, "7" * 5000, "\u0667", "1e3", "seven", " 7"])

TASK = new_task(to="code", content="x", task_type="test", sender="main").to_json()
RESULT = new_result(
    TASK, result_id=make_result_id("code", "task-1", "n" * 20), status="completed", result="x"
).to_json()
ENTRY: dict[str, Json] = {
    "state": "working", "digest": "d", "task_type": "test", "sender": "agent-main", "inbox": "main", "attempt": 1,
    "created_at": "2026-11-22T00:00:00+00:00",
    "claim": {"worker": "w", "nonce": "n", "counter": 1, "since": "2026-11-22T00:00:00+00:00"},
}  # fmt: skip


@contextmanager
def only(*allowed: type[BaseException], one_line: bool = True, secret: str = "") -> Generator[None]:
    """Allow these errors alone, with a text, in one line, that does not quote `secret`."""
    text = "x"
    try:
        yield
    except allowed as error:
        text = str(error)
    assert text
    assert not one_line or "\n" not in text
    if len(secret) >= 12:  # a shorter one may stand in any text by chance
        assert secret not in text


def dumped(value: Any) -> bytes:
    """Write JSON as a careless publisher does: with NaN and lone surrogates."""
    return json.dumps(value, ensure_ascii=True, default=str).encode()


def altered(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Generate valid objects with some fields replaced or left out."""
    keys = st.sampled_from(sorted(base))

    def change(changes: dict[str, Any], gone: list[str]) -> bytes:
        return dumped({key: value for key, value in {**base, **changes}.items() if key not in gone})

    return st.builds(change, st.dictionaries(keys, VALUES, max_size=3), st.lists(keys, max_size=2))


def messages_like(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    whole = dumped(base)
    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    return st.binary(max_size=200) | altered(base) | cut | VALUES.map(dumped)


def as_jwt(claims: Any) -> str:
    body = base64.urlsafe_b64encode(dumped({"exp": claims})).decode().rstrip("=")
    return f"e30.{body}.c2ln"


def stored(subject: str, data: bytes, headers: dict[str, str] | None = None) -> StoredMessage:
    return StoredMessage(subject, 1, datetime.now(UTC), headers or {}, data)


# -- messages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"1" * 5000, b'{"a":' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff", b'"\\ud800"', b"NaN", b"", b"{}", b"null"],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("read", [decode, decode_task, decode_result])
def test_json_that_is_not_valid_or_too_large_is_refused(read: Callable[[bytes], object], data: bytes):
    with only(MessageError):
        read(data)


@given(messages_like(TASK))
def test_a_task_is_accepted_or_refused(data: bytes):
    with only(MessageError):
        task = decode_task(data)
        assert decode_task(encode(task.to_json())).to_json() == task.to_json()


@given(messages_like(RESULT))
def test_a_result_is_accepted_or_refused(data: bytes):
    with only(MessageError):
        assert decode_result(data).id


def delivery(data: bytes, headers: dict[str, str], subject: str = "agent.code.tasks") -> Delivery:
    reply = "$JS.ACK.AGENT_TASKS.agent-code.1.1.1.1763769600000000000.0"
    message = SimpleNamespace(reply=reply, data=data, headers=headers, subject=subject, header_bytes=0)
    return Delivery(cast("Any", None), cast("Any", message))


@given(
    messages_like(TASK), st.dictionaries(st.sampled_from([LEDGER_REVISION, REVISION, MSG_ID, "Nats-Stream"]), DIGITS)
)
def test_a_delivery_is_accepted_or_refused(data: bytes, headers: dict[str, str]):
    with only(MessageError):
        read_delivery(delivery(data, headers), "code")


@given(DIGITS)
def test_the_revision_of_a_delivery_is_a_number_or_refused(revision: str):
    for name, publication in ((LEDGER_REVISION, None), (REVISION, "n0nce")):
        headers = {name: revision, MSG_ID: ids.task_msg_id(TaskKey("code", str(TASK["id"])), publication)}
        with only(MessageError):
            found = read_delivery(delivery(dumped(TASK), headers), "code")
            assert (found.revision, found.publication) == (int(revision), publication)


@given(messages_like(ENTRY), st.dictionaries(st.sampled_from(["Bus-State", "KV-Operation"]), st.text(max_size=10)))
def test_a_ledger_entry_is_accepted_or_refused(data: bytes, headers: dict[str, str]):
    with only(CorruptEntryError):
        read_entry(stored(subjects.state(TaskKey("code", "task-1")), data, headers))


@given(messages_like({"agent": "code", "instance": "one", "host": "h", "pid": 1, "version": "0", "slots": 1, "free": 1,
                      "started_at": "2026-11-22T00:00:00+00:00"}), st.text(max_size=30))  # fmt: skip
def test_an_entry_of_the_registry_is_accepted_or_ignored(data: bytes, key: str):
    for subject in (subjects.presence("code", "one"), key):
        found = presence._read(subject, data, int(datetime.now(UTC).timestamp() * 1e6))  # pyright: ignore[reportPrivateUsage]
        assert found is None or (found.agent, found.instance) == ("code", "one")


@given(
    st.dictionaries(st.sampled_from(["Bus-Size", "Bus-Reason", "Bus-Worker", "Bus-Sha256"]), DIGITS | st.text()),
    st.text(max_size=30),
)
def test_a_dead_letter_is_always_shown(headers: dict[str, str], subject: str):
    read = dead_letters._read  # pyright: ignore[reportPrivateUsage]
    assert read(1, subject, headers, b"x", datetime.now(UTC)).seq == 1


@given(st.text(max_size=60) | st.builds("agentbus://{}/{}".format, st.text(max_size=12), st.text(max_size=30)))
def test_a_resource_uri_is_accepted_or_refused(uri: str):
    with only(AgentBusError):
        uris.parse(uri)


RECORD: dict[str, Json] = {
    "tool": "watch_results", "created_at": "2026-11-22T00:00:00+00:00", "changed_at": "2026-11-22T00:00:00+00:00",
    "ttl_ms": 1000, "end": {"status": "completed", "body": {}},
    "state": {"watch": {"task_ids": ["task-1"]}, "inbox": "main", "elicits": False},
}  # fmt: skip


@given(messages_like(RECORD))
def test_the_record_of_an_mcp_task_is_accepted_or_refused(data: bytes):
    with only(CorruptEntryError):
        record = records.record_in(data, "watch_results-1")
        assert record.expired in (True, False)
        wait = StoredWait.from_state(record.state)
        assert wait.timed_out in (True, False)


@given(VALUES | st.fixed_dictionaries({"action": SCALARS}, optional={"content": VALUES | st.just({"approve": True})}))
def test_only_an_explicit_yes_to_a_question_approves(response: Any):
    with only(MCPError):
        decision = read_decision("task-1", response)
        if decision is not None and decision.approve:
            assert (response["action"], response["content"]["approve"]) == ("accept", True)


@given(VALUES | st.text(max_size=9000).map("a\nstatus=needs_approval\n{}".format))
def test_a_question_has_a_bounded_length_whatever_the_agent_printed(output: Any):
    with only(MessageError):
        arrived = decode(encode(output))  # refuses what no message can hold
        assert len(question(arrived).encode()) <= 8192


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_a_cursor_of_the_list_of_resources_is_accepted_or_refused(cursor: str):
    with only(MCPError):
        assert subjects.is_agent_id(decode_cursor(cursor))


@given(messages_like({"nuid": "n" * 22, "size": 1, "chunks": 1, "digest": "SHA-256=x", "name": "x"}))
def test_the_metadata_of_a_file_names_a_subject_token_or_is_refused(data: bytes):
    with only(MessageError, ValidationError, one_line=False):
        meta = output_store.Description.model_validate(decode(data))
        assert meta.nuid.replace("-", "").replace("_", "x").isalnum()
        assert meta.nuid.isascii()


# -- traces -----------------------------------------------------------------------------------------------------

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PIECES = st.sampled_from(
    [TRACEPARENT, "00-", "-01", "-", "a=b", "k@v=1", ",", "=", "a", "@", "\t", " ", "\n", "\u00e9", "f"]
)
TRACES = st.text(max_size=80) | st.lists(PIECES, max_size=12).map("".join) | st.just(TRACEPARENT)
TRACE_HEADERS = ["traceparent", "tracestate", "Traceparent", "Tracestate", "TRACEPARENT", "baggage", MSG_ID]


class LogRecorder(logging.Handler):
    """Keeps the messages of all loggers."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@given(st.dictionaries(st.sampled_from(TRACE_HEADERS), TRACES))
def test_trace_headers_are_accepted_or_ignored_and_never_logged(headers: dict[str, str]):
    log = LogRecorder()
    logging.getLogger().addHandler(log)
    try:
        with tracing.processing(headers, agent="code", task_id="t", worker="w", attempt=1):
            passed_on, handed_down = tracing.headers(), tracing.environment()
            tracing.link(headers)
    finally:
        logging.getLogger().removeHandler(log)
    assert log.messages == []
    assert set(handed_down) <= tracing.ENVIRONMENT - {"BAGGAGE"}
    assert tracing.carried(passed_on) == passed_on, "the next party reads the same trace"
    if passed_on:
        parent = headers.get("traceparent") or headers["Traceparent"]
        assert passed_on["traceparent"].split("-")[1:3] == parent.split("-")[1:3]


KEYS = st.from_regex(r"[a-z][a-z0-9_*/-]{0,8}", fullmatch=True)


@given(st.dictionaries(KEYS, st.from_regex(r"[!-+]{1,6}", fullmatch=True), min_size=1, max_size=9))
def test_a_valid_tracestate_is_passed_on(members: dict[str, str]):
    state = ",".join(f"{key}={value}" for key, value in members.items())
    headers = {"Traceparent": TRACEPARENT, "Tracestate": state}
    with tracing.processing(headers, agent="code", task_id="t", worker="w", attempt=1):
        assert tracing.headers() == {"traceparent": TRACEPARENT, "tracestate": state}


# -- files ------------------------------------------------------------------------------------------------------


@given(st.text(max_size=80) | st.builds("{}://{}@{}:{}".format, *[st.text(max_size=12)] * 4))
def test_a_url_of_a_bus_is_accepted_or_refused(url: str):
    with only(ConfigError):
        parse_urls(url)


@given(
    st.sampled_from(["nats", "tls", "http", "", "n\u00e4ts"]),
    st.text(max_size=12),
    st.text("abcdefgh:%/", min_size=12, max_size=30),
    st.text(max_size=12),
)
def test_a_refused_url_is_not_quoted_with_its_password(scheme: str, user: str, password: str, host: str):
    with only(ConfigError, secret=password):
        parse_urls(f"{scheme}://{user}:{password}@{host}")


def documents() -> st.SearchStrategy[bytes]:
    """Generate files of TOML that are nearly valid, and files that are not TOML."""
    plain = (
        st.text(max_size=20) | st.integers() | st.booleans() | st.floats() | st.lists(st.text(max_size=5), max_size=3)
    )
    names = ["url", "user", "password_file", "ca_file", "nkey_file", "id", "chat_cmd", "prompt_via", "concurrency"]
    names += ["version", "role", "auth", "secret", "ca", "may_task", "state_dir", "retry_on"]
    tables = st.dictionaries(st.sampled_from(names), plain, max_size=5)
    sections = st.dictionaries(
        st.sampled_from(["nats", "agent", "worker", "log", "coordinator", "bundle"]), tables, max_size=4
    )
    return st.binary(max_size=100) | st.text(max_size=200).map(str.encode) | sections.map(_written)


def _written(sections: dict[str, dict[str, Any]]) -> bytes:
    return toml_text(sections).encode(errors="replace")


@given(documents())
def test_a_configuration_is_accepted_or_refused(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(data)
        path.chmod(0o600)
        with only(ConfigError):
            worker, _ = load_worker(path)
            connection_settings(worker.nats, agent=worker.agent.id, name="test")
        with only(ConfigError):
            coordinator, _ = load_coordinator(path=path)
            connection_settings(coordinator.nats, agent="main", name="test")
        with only(ConfigError):
            read_bundle(path)


@given(
    st.text(max_size=100) | st.builds("-----BEGIN {}-----\n{}\n-----END {}-----".format, *[st.text(max_size=40)] * 3)
)
def test_credentials_are_accepted_or_refused_and_not_quoted(text: str):
    for read in (check_seed, read_creds):
        with only(ConfigError, secret=text):
            read(text)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_a_file_with_a_secret_is_accepted_or_refused_and_not_quoted(data: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        path.write_bytes(data)
        for key in ("password_file", "token_file", "nkey_file", "creds_file"):
            section = NatsSection.model_validate({"url": "nats://host", "user": "agent-code", key: path})
            with only(ConfigError, secret=data.decode(errors="replace").strip()):
                connection_settings(section, agent="code", name="test")


@given(st.text(max_size=60) | st.builds("{}.{}.{}".format, *[st.text(max_size=30)] * 3) | VALUES.map(as_jwt))
def test_the_expiry_of_any_jwt_is_a_time_or_none(jwt: str):
    end = expiry(jwt)
    assert end is None or end.tzinfo is not None


@given(
    st.lists(messages_like({"agent": "code", "task_id": "t", "inbox": "main", "nonce": "n", "result": {}}), max_size=3)
)
def test_a_file_in_an_outbox_is_read_or_set_aside_and_never_deleted(files: list[bytes]):
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(files):
            (Path(folder) / f"{number}.json").write_bytes(data)
        read = len(Outbox(Path(folder)).entries())
        assert read + len([*Path(folder).glob("*.unreadable")]) == len(files)
