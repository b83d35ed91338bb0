"""Generates what hostile parties store on a bus: messages near valid ones, with every field wrong in every way."""

import base64
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Final

from hypothesis import strategies as st

from agentbus.protocol.json_codec import object_in
from support.raw_publisher import RawMessage, head

AGENT: Final = "code"
"""Whose workers are the hostile party."""
MOST: Final = 12
"""How many messages one example has."""
IDS: Final = [f"t{number}" for number in range(MOST)]
FILE: Final = "result-file"
_TIME: Final = "2026-11-22T00:00:00+00:00"

_TEXTS: Final = st.sampled_from(
    [
        "", " ", "x" * 300, "x" * 70_000, "\x1b[31m\x9b", "\u202e\u2066", "a\r\nb", "\x00", "\x7f", "agent-main",
        "agent-", "main ", "~bob", "*", ">", "a.b", "a..b", "../..", "=x", "-x", "\u00e9", "\U0001f600", "queued",
        "completed",
        "2026-01-01", "9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00", "task.result", "true", "1",
    ]
)  # fmt: skip
_NUMBERS: Final = st.sampled_from(
    [
        -1, 0, 1, 2**31, 2**31 + 1, 2**53, 2**63, 2**64, 10**30, -(10**30), 0.5, 1e-320, 1e300, -1e300,
        float("nan"), float("inf"), float("-inf"),
    ]
)  # fmt: skip
_SCALARS: Final = st.none() | st.booleans() | _NUMBERS | _TEXTS | st.text(max_size=20)
_VALUES: Final = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

_TASK: Final[dict[str, Any]] = {
    "id": "t0", "from": "agent-main", "to": "agent-code", "reply_to": "agent-main", "type": "task.request",
    "task_type": "test", "payload": {"fmt": "text", "content": "work"}, "created_at": _TIME,
    "answers": "t1", "answers_owner": "bob",
}  # fmt: skip
_CONTINUING: Final[dict[str, Any]] = {
    "needs": ["continue"],
    "continue": {"task": "t1", "owner": "bob", "session": "s", "place": "0" * 16 + "-" + "1" * 8, "fresh": True,
                 "wait_s": 5.0},
}  # fmt: skip
_OUTPUT: Final = {"bytes": 9, "kept": 1, "sha256": "0" * 64, "truncated": True,
                  "file": {"bucket": "AGENT_FILES_code", "name": FILE}}  # fmt: skip
_RUN: Final[dict[str, Any]] = {
    "format": "claude", "kind": "claude", "version": "2", "session": "s", "model": "m", "turns": 2, "cost_usd": 0.5,
    "usage": {"input_tokens": 3, "cached_input_tokens": 2, "output_tokens": 1},
    "denied": [{"tool": "Bash", "summary": "git push"}], "place": "0" * 16 + "-" + "1" * 8, "resumed": True,
}  # fmt: skip
_ASKED: Final[dict[str, Any]] = {
    "tool": "Bash", "summary": "git push", "arguments": {"command": "git push"}, "arguments_bytes": 9,
    "arguments_digest": "0" * 64, "folder": "/srv", "text": "I push it.", "call": "toolu_1",
}  # fmt: skip
_EARLIER: Final = {"runs": 2, "with_tokens": 1, "with_cost": 1, "input_tokens": 3, "cached_input_tokens": 2,
                   "output_tokens": 1, "cost_usd": 0.5, "model": "m"}  # fmt: skip
_FAILURE: Final = {"code": "not_ended", "message": "m", "http_status": 429, "retry_after_s": 2.5}
_RESULT: Final[dict[str, Any]] = {
    "id": "result-code-t0-n", "type": "task.result", "status": "completed", "task": _TASK, "result": "done",
    "error": "none", "failure": _FAILURE, "completed_at": _TIME, "worker": "w",
    "attempt": 1, "earlier_runs": _EARLIER, "exit_code": 0, "duration_seconds": 1.5, "output": _OUTPUT, "run": _RUN,
    "transcript": {"name": FILE, "bytes": 9, "sha256": "0" * 64}, "question": _ASKED,
}  # fmt: skip
_ENTRY: Final[dict[str, Any]] = {
    "state": "queued", "digest": "d", "sender": "agent-main", "inbox": "main", "task_type": "test",
    "created_at": _TIME, "publication": "n", "attempt": 1, "last_failure": "it broke", "settled_at": _TIME,
}  # fmt: skip
_CLAIM: Final[dict[str, Any]] = {
    "worker": "w", "nonce": "n", "renewals": 1, "lease_s": 30, "since": _TIME, "used": _RUN,
}  # fmt: skip
_CANCEL: Final = {"by": "main", "reason": "not needed", "at": _TIME}
_QUESTION: Final[dict[str, Any]] = {
    "number": 1, "nonce": "n", "operation": "Bash", "arguments": {"command": "git push"}, "arguments_bytes": 9000,
    "arguments_digest": "0" * 64, "folder": "/work", "text": "push it", "asked_at": _TIME, "until": _TIME, "given": "n",
    "answer": {"allow": True, "comment": "once", "by": "agent-main", "at": _TIME},
}  # fmt: skip
_ENTRIES: Final[list[dict[str, Any]]] = [
    _ENTRY,
    {**_ENTRY, "retry_after_s": 5.0, "earlier": _EARLIER},
    {**_ENTRY, "group": "job", "about": "Review PR 123"},
    {**_ENTRY, "setbacks": {"count": {"host-0123abcd": 2}, "code": "not_started", "since": _TIME}},
    {**_ENTRY, "cancel": _CANCEL},
    {**_ENTRY, "needs": ["continue"], "continues": {"task": "t1", "owner": "main", "fresh": True, "wait_s": 5.0}},
    {**_ENTRY, "state": "working", "claim": _CLAIM},
    {**_ENTRY, "state": "working", "claim": _CLAIM, "cancel": _CANCEL},
    {**_ENTRY, "state": "working", "claim": _CLAIM, "questions": [_QUESTION]},
    *({**_ENTRY, "state": state, "earlier": _EARLIER, "result": {**_RESULT, "status": state}}
      for state in ("completed", "failed", "needs_approval", "cancelled")),
]  # fmt: skip
_PRESENCE: Final[dict[str, Any]] = {
    "agent": AGENT, "instance": "m", "host": "h", "pid": 1, "version": "0", "description": "d", "command": "c",
    "slots": 1, "free": 1, "lost": 1, "running": ["t0"], "started_at": _TIME,
    "paused": {"code": "not_started", "reason": "no command", "until": _TIME, "since": _TIME},
    "refused": {"count": 1, "since": _TIME, "reason": "no right"}, "place": "p", "needs": ["continue"],
}  # fmt: skip
_META: Final[dict[str, Any]] = {
    "name": FILE, "bucket": "AGENT_FILES_code", "nuid": "n" * 22, "size": 9, "chunks": 1, "digest": "SHA-256=x",
    "mtime": _TIME, "options": {"max_chunk_size": 10},
}  # fmt: skip
_RECORD: Final[dict[str, Any]] = {
    "tool": "watch_results", "created_at": _TIME, "changed_at": _TIME, "ttl_ms": 10**12,
    "state": {"watch": {"task_ids": ["t0", "honest"], "until": "all", "timeout_s": 1.0, "cursor": 1, "agent": AGENT,
                        "names": ["code/t0"], "room": {"format": "concise", "max_bytes": 100}},
              "inbox": "main", "elicits": True, "deadline": 1e10},
}  # fmt: skip
RECORD: Final = "watch_results-20261122-x"
"""The id of an MCP task whose record is hostile."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a value."""
    for key, inner in object_in(value).items():
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _changed(base: dict[str, Any], changes: list[tuple[tuple[Any, ...], Any]], gone: list[tuple[Any, ...]]) -> bytes:
    value = deepcopy(base)
    for path, new in changes:
        _parent(value, path)[path[-1]] = new
    for path in gone:
        _parent(value, path).pop(path[-1], None)
    return json.dumps(value).encode()  # with NaN and lone surrogates, as a careless publisher writes


def _parent(value: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """The object that holds a place; an empty one where another change has removed it."""
    for key in path[:-1]:
        value = object_in(value.get(key))
    return value


def _near(*bases: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Generate objects near valid ones."""

    def of(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
        places = st.sampled_from(list(_places(base)))
        changes = st.lists(st.tuples(places, _VALUES), max_size=2)
        return st.builds(_changed, st.just(base), changes, st.lists(places, max_size=1))

    return st.sampled_from(bases).flatmap(of)


_NO_OBJECTS: Final = st.sampled_from(
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"x"',
        b"1" * 5000,
        b"\xff\xfe",
        b'"\\ud800"',
        b"NaN",
        b"{" * 1000,
        b"[" * 100_000,
        b'{"state":"queued","state":"completed"}',
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b'{"x":"' + b"x" * 10**6 + b'"}',
    ]
) | st.binary(max_size=50)
_LINES: Final = st.sampled_from(
    [
        b"Bus-State: queued", b"Bus-State: completed", b"Bus-State: \x1b[31m", b"Bus-State:", b"KV-Operation: DEL",
        b"KV-Operation: PURGE", b"KV-Operation: x", b"traceparent: x", b"traceparent: 00-" + b"f" * 32 + b"-x-01",
        b"Nats-Sequence: 1", b"Nats-Sequence: x", b"Nats-Stream: x", b"Nats-Subject: x", b"Nats-Time-Stamp: x",
        b"Nats-Msg-Id: x", b"Status: 404", b"Bus-Size: " + b"9" * 5000, b"Bus-Reason: \x9b\xff", b"no colon",
        b": no name",
        b'Bus-Summary: {"sender":"agent-x","inbox":"main","task_type":"t","failure":{"code":"x","message":7}}',
        b'Bus-Summary: {"sender":"\\ud800","inbox":"main","task_type":"\\u001b[31m","cancel":{"by":"x","at":"y"}}',
        b'Bus-Summary: {"sender":"agent-x","inbox":"other","task_type":"t","attempt":NaN}', b"Bus-Summary: [",
        b'Bus-Summary: {"sender":"agent-x","inbox":"main","task_type":"t","about":"\\u001b]0;x\\u0007\\u202e"}',
        b"Bus-Group: job", b"Bus-Group: \x1b[31m", b"Bus-Group:", b"Bus-Group: " + b"g" * 5000,
    ]
)  # fmt: skip
_FIRST_LINES: Final = st.sampled_from(
    [*[b"NATS/1.0"] * 6, b"NATS/1.0 503", b"NATS/1.0 404 x", b"NATS/1.0 100 Idle Heartbeat", b"NATS/1.0 408", b"x", b""]
)


def _head(first: bytes, lines: list[bytes]) -> bytes:
    return head(*lines, first=first)


def _heads() -> st.SearchStrategy[bytes]:
    return st.just(b"") | st.builds(_head, _FIRST_LINES, st.lists(_LINES, max_size=3))


def _on(subject: st.SearchStrategy[bytes], *bases: dict[str, Any]) -> st.SearchStrategy[RawMessage]:
    return st.builds(RawMessage, subject, st.one_of(_near(*bases), _near(*bases), _NO_OBJECTS), _heads())


_ODD_KEYS: Final = st.sampled_from(
    [
        b"code.x\x7f", b"code.\x7f", b"code.x\x1b[31m", b"code.\x9b", b"code.a\xff", b"code.=x", b"code.-x", b"code",
        b"code.~bob.t0", b"code.~main.t0", b"code.~.t0", b"code.~bob.~x.t0", b"code.a.b.c", b"code.$x",
        b"code." + b"x" * 500,
    ]
).map(b"$KV.AGENT_STATE.%s".__mod__)  # fmt: skip


def _entry_of(number: int) -> st.SearchStrategy[RawMessage]:
    return _on(st.just(b"$KV.AGENT_STATE.code.%s" % IDS[number].encode()), *_ENTRIES)


def entries() -> st.SearchStrategy[list[RawMessage]]:
    """Generate ledger entries: one for each of some ids, each its own kind of wrong."""
    return st.integers(1, MOST).flatmap(lambda count: st.tuples(*map(_entry_of, range(count))).map(list))


_META_SUBJECT: Final = b"$O.AGENT_FILES_code.M." + base64.urlsafe_b64encode(FILE.encode())
OTHERS: Final[dict[str, Callable[[], st.SearchStrategy[RawMessage]]]] = {
    "odd keys": lambda: _on(_ODD_KEYS, *_ENTRIES),
    "inbox": lambda: _on(st.just(b"agent.main.results"), _RESULT),
    "registry": lambda: _on(
        st.sampled_from(
            [b"$KV.AGENT_REGISTRY.code.m", b"$KV.AGENT_REGISTRY.code.\x1b", b"$KV.AGENT_REGISTRY.code.\x7f"]
        ),
        _PRESENCE,
    ),
    "dead letters": lambda: _on(st.just(b"agent.code.dead"), _TASK),
    "tasks": lambda: _on(st.just(b"agent.code.tasks"), _TASK),
    "follow-ups": lambda: _on(st.just(b"agent.code.tasks.bob"), {**_TASK, **_CONTINUING}),
    "files": lambda: _on(st.just(_META_SUBJECT), _META),
    "records": lambda: _on(st.just(b"$KV.AGENT_STATE.main.=" + RECORD.encode()), _RECORD),
}
"""What lies beside the ledger, by its name."""


def everything() -> st.SearchStrategy[list[RawMessage]]:
    """Generate a bus full of hostile messages."""
    others = st.one_of(*(make() for make in OTHERS.values()))
    return st.tuples(entries(), st.lists(others, max_size=MOST)).map(lambda both: [*both[0], *both[1]])
