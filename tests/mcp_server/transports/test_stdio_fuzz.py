"""Lines of JSON-RPC as no host should write them, on the standard input of the real server: it answers, and lives on.

`make fuzz` sends them for a minute. A failure names its seed; `make fuzz SEED=…` begins with that one.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S
from support.mcp_harness import INITIALIZE, raw_server

pytestmark = pytest.mark.posix("not tried on Windows")

SECONDS: Final = float(os.environ.get("AGENTBUS_TEST_FUZZ_S", "0"))
"""How long to go on with further seeds; the gate tries one."""
SEED: Final = int(os.environ.get("AGENTBUS_TEST_FUZZ_SEED") or (time.time_ns() if SECONDS else 1))
LINES: Final = 400

META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
}
METHODS: Final = (
    "tools/call", "tools/call", "tools/call", "tools/list", "prompts/get", "prompts/list", "resources/read",
    "resources/list", "resources/subscribe", "completion/complete", "ping", "initialize", "tasks/get",
    "server/discover", "subscriptions/listen", "logging/setLevel", "no/such", "",
)  # fmt: skip
NAMES: Final = (
    "publish_task", "watch_results", "get_results", "get_task", "list_tasks", "list_agents", "cancel_task",
    "answer_approval", "delegate", "collect", "nope",
)  # fmt: skip
ARGUMENTS: Final = (
    "to", "content", "task_type", "payload_fmt", "reply_to", "task_id", "watch", "task_ids", "until", "cursor", "agent",
    "timeout_seconds", "response_format", "offset", "max_bytes", "newest", "state", "limit", "reason", "approve",
    "work",
)  # fmt: skip
SCALARS: Final = (
    None, True, False, 0, 1, -1, 2**53 + 1, 10**30, 0.5, 5.0, 1e308, float("nan"), float("inf"), "", "a", "code",
    "null", "caf\ud83d", "\ud83d\ude00", "\udc00", "\x00", "\u2028\x85", "x" * 3_000, "2", "[1]", "{}", "any", "json",
    "*", ">",
)  # fmt: skip


@dataclass
class Script:
    """Lines of one seed, and what must come back."""

    choice: random.Random
    modern: bool
    lines: list[bytes] = field(default_factory=list[bytes])
    expected: set[Any] = field(default_factory=set[Any])
    given_up: set[Any] = field(default_factory=set[Any])
    nulls: int = 0

    def value(self, depth: int = 0) -> Any:
        kind = self.choice.random()
        if depth > 3 or kind < 0.7:
            return self.choice.choice(SCALARS)
        if kind < 0.85:
            return [self.value(depth + 1) for _ in range(self.choice.randrange(4))]
        return {self.choice.choice(ARGUMENTS): self.value(depth + 1) for _ in range(self.choice.randrange(4))}

    def request(self) -> tuple[Any, dict[str, Any]]:
        """A request that is more or less valid, with an id that no other has; the id stands before what is odd."""
        number = len(self.lines) * 10 + self.choice.randrange(10)
        request_id = self.choice.choice([number, f"id-{number}"])
        arguments = {name: self.value() for name in self.choice.sample(ARGUMENTS, self.choice.randrange(8))}
        params: dict[str, Any] = {"name": self.choice.choice(NAMES), "arguments": arguments, "uri": "agentbus://agents"}
        if self.modern or self.choice.random() < 0.05:
            params["_meta"] = META
        if self.choice.random() < 0.2:
            params[self.choice.choice(["name", "arguments", "_meta", "uri", "cursor"])] = self.value()
        method = self.choice.choice(METHODS)
        return request_id, {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}

    def add(self) -> None:
        """Add a line."""
        request_id, message = self.request()
        kinds = (
            self.whole, self.whole, self.whole, self.cut, self.dirty, self.envelope, self.deep, self.batch, self.cancel,
            self.nothing,
        )  # fmt: skip
        self.choice.choice(kinds)(request_id, message)

    def whole(self, request_id: Any, message: dict[str, Any]) -> None:
        self.lines.append(self.choice.choice([b"", b"", b"\xef\xbb\xbf", b" \t"]) + dumped(message))
        self.expected.add(request_id)

    def cut(self, request_id: Any, message: dict[str, Any]) -> None:
        text = dumped(message)
        end = self.choice.randrange(1, len(text))
        self.lines.append(text[:end])
        if end > text.index(b',"method"'):
            self.expected.add(request_id)
        else:
            self.nulls += 1

    def dirty(self, request_id: Any, message: dict[str, Any]) -> None:
        text = dumped(message)
        place = self.choice.randrange(text.index(b',"method"') + 1, len(text))
        bad = bytes(self.choice.choice(b'"\\{}[]:,\x00\xff\xe9 0u') for _ in range(self.choice.randrange(1, 4)))
        self.lines.append(text[:place] + bad + text[place + self.choice.randrange(3) :])
        self.expected.add(request_id)

    def envelope(self, request_id: Any, message: dict[str, Any]) -> None:
        name = self.choice.choice(["jsonrpc", "method", "params"])
        message[name] = self.value()
        if self.choice.random() < 0.3:
            del message[name]
        self.lines.append(dumped(message))
        self.expected.add(request_id)

    def deep(self, request_id: Any, message: dict[str, Any]) -> None:
        levels = self.choice.choice([150, 300, 3_000, 100_000])
        bad = self.choice.choice([b"[" * levels + b"]" * levels, b"7" * levels, b"1e" + b"9" * 400])
        self.lines.append(dumped({**message, "params": {"x": "here"}}).replace(b'"here"', bad))
        self.expected.add(request_id)

    def batch(self, request_id: Any, message: dict[str, Any]) -> None:
        other_id = f"{request_id}-other"
        self.lines.append(dumped([message, {**message, "id": other_id}]))
        self.expected |= {request_id, other_id}

    def cancel(self, request_id: Any, message: dict[str, Any]) -> None:
        """A request that is cancelled at once: it may be answered before it is."""
        notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
        self.lines += [dumped(message), dumped(notification)]
        self.given_up.add(request_id)

    def nothing(self, _: Any, message: dict[str, Any]) -> None:
        """What gets no answer."""
        del message["id"]
        odd = {"jsonrpc": "2.0", "id": 5, "result": self.value()}
        self.lines.append(
            self.choice.choice([b"", b"  ", dumped({**message, "method": "notifications/x"}), dumped(odd)])
        )


def dumped(value: Any) -> bytes:
    """JSON as a careless host writes it: with NaN, and halves of pairs."""
    return json.dumps(value, separators=(",", ":")).encode()


def script(seed: int) -> Script:
    made = Script(random.Random(seed), modern=seed % 2 == 0)
    # The first request decides the era of them all.
    discover = {"jsonrpc": "2.0", "id": INITIALIZE["id"], "method": "server/discover", "params": {"_meta": META}}
    made.lines.append(dumped(discover if made.modern else INITIALIZE))
    made.expected.add(INITIALIZE["id"])
    while len(made.lines) < LINES:
        made.add()
    return made


async def answers_to(process: asyncio.subprocess.Process, lines: list[bytes]) -> list[dict[str, Any]]:
    """Write the lines, then close the input, and read to the end of the output meanwhile."""
    assert process.stdin
    assert process.stdout
    stdin = process.stdin

    async def write() -> None:
        stdin.write(b"\n".join([*lines, b""]))
        await stdin.drain()
        stdin.close()

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        group.create_task(write())
        said = await process.stdout.read()
    return [json.loads(line) for line in said.splitlines()]


async def check(seed: int, url: str) -> None:
    made = script(seed)
    async with raw_server("--nats-url", url) as process:
        assert process.stderr
        log = asyncio.create_task(process.stderr.read())
        answers = await answers_to(process, made.lines)
        code = await process.wait()
        said = (await log).decode()
    counts = Counter(answer["id"] for answer in answers if "id" in answer and "method" not in answer)
    nulls = counts.pop(None, 0)
    assert code == 0, f"seed {seed}: {said[-2000:]}"
    assert "Traceback" not in said, f"seed {seed}: {said[-4000:]}"
    assert made.expected - counts.keys() == set(), f"seed {seed}: not answered"
    assert counts.keys() - made.expected - made.given_up == set(), f"seed {seed}: nobody asked"
    assert {found for found, count in counts.items() if count > 1} == set(), f"seed {seed}: answered twice"
    assert nulls >= made.nulls, f"seed {seed}: not answered, with no id"


@pytest.mark.timeout(SECONDS + 900)
async def test_every_request_is_answered_and_the_server_lives(server: NatsServer, coordinator: Coordinator) -> None:
    end, seed = time.monotonic() + SECONDS, SEED
    while True:
        await check(seed, server.url)
        seed += 1
        if time.monotonic() >= end:
            return
