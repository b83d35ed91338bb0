"""Searches for secrets in everything that a run has left behind or shown: files, streams, processes."""

import asyncio
import base64
import json
import os
import stat
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from agentbus.bus.jetstream import Bus
from agentbus.errors import ApiError
from support.harness import alive

_LOOKS_AT_A_NEW_ONE = 20
"""How often a process is looked at before it counts as one that was there; each look at one takes 0.02 ms."""


def _inner_base64(secret: bytes) -> Iterator[bytes]:
    """Yield the part of a secret's base64 that does not depend on its neighbours, for each of the three alignments."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret)
        end = len(whole) - (0, 4, 3)[(before + len(secret)) % 3]
        yield whole[(0, 2, 3)[before] : end]


def forms_of(secret: bytes) -> set[bytes]:
    """Return the forms that a secret may have: as it is, escaped for URLs and JSON, in base64 and in hexadecimal."""
    forms = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for inner in _inner_base64(secret):
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    with suppress(UnicodeDecodeError):
        text = secret.decode()
        forms |= {quote(text, safe="").encode(), quote(text).encode()}
        forms |= {json.dumps(text, ensure_ascii=escaped)[1:-1].encode() for escaped in (True, False)}
    assert min(map(len, forms)) >= 12, "too short to be told from chance"
    return forms


@dataclass
class Vault:
    """The secrets of a run, by name."""

    _forms: dict[str, set[bytes]] = field(default_factory=dict[str, set[bytes]])

    def keep(self, name: str, secret: str | bytes) -> None:
        data = secret.encode() if isinstance(secret, str) else secret
        assert name not in self._forms
        self._forms[name] = forms_of(data)

    def found_in(self, data: bytes) -> set[str]:
        return {name for name, forms in self._forms.items() if any(form in data for form in forms)}

    @property
    def names(self) -> set[str]:
        return set(self._forms)


def in_files(vault: Vault, *folders: Path) -> dict[Path, set[str]]:
    """Find the secrets in each file below some folders, and in its name."""
    found: dict[Path, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and (names := vault.found_in(os.fsencode(path) + b"\0" + path.read_bytes())):
                found[path] = names
    return found


def readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


async def in_streams(vault: Vault, bus: Bus) -> dict[str, set[str]]:
    """Find the secrets in each message of each stream, and in the configuration of streams and consumers."""
    found: dict[str, set[str]] = {}

    def look(where: str, data: bytes) -> None:
        if names := vault.found_in(data):
            found[where] = names

    for name in (await bus.api("STREAM.NAMES"))["streams"]:
        info = await bus.api(f"STREAM.INFO.{name}")
        assert info["config"].get("compression", "none") == "none", "what lies on the disk would not be what was stored"
        look(name, json.dumps(info).encode())
        look(f"{name} consumers", json.dumps(await bus.api(f"CONSUMER.LIST.{name}")).encode())
        for seq in range(info["state"]["first_seq"], info["state"]["last_seq"] + 1):
            try:
                message = (await bus.api(f"STREAM.MSG.GET.{name}", {"seq": seq}))["message"]
            except ApiError:
                continue  # a revision that was replaced
            parts = (base64.b64decode(message.get(part, "")) for part in ("hdrs", "data"))
            look(f"{name} {seq}", b"\0".join([message["subject"].encode(), *parts]))
    return found


@dataclass
class Processes:
    """The command lines and environments of the processes that carry a mark (Linux)."""

    command_lines: set[bytes] = field(default_factory=set[bytes])
    environments: dict[bytes, set[bytes]] = field(default_factory=dict[bytes, set[bytes]])
    _looks: Counter[str] = field(default_factory=Counter[str])

    def look(self, mark: str) -> None:
        """Look at the processes that are new, and now and then at all: one may become another program."""
        there = [name for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208  # names alone
        self._looks = Counter({pid: self._looks[pid] + 1 for pid in there})
        for pid, looks in self._looks.items():
            if looks > _LOOKS_AT_A_NEW_ONE and looks % _LOOKS_AT_A_NEW_ONE:
                continue
            with suppress(OSError):
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if mark.encode() in environment and alive(int(pid)):
                    self.command_lines.add(command_line)
                    self.environments.setdefault(command_line, set()).add(environment)


@asynccontextmanager
async def watching_processes() -> AsyncGenerator[Processes]:
    """Poll the processes of this test for the length of the block."""
    seen, mark = Processes(), f"TEST_PROCESS_MARK={os.environ['TEST_PROCESS_MARK']}"

    async def watch() -> None:
        while True:
            seen.look(mark)
            await asyncio.sleep(0.02)

    watcher = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watcher.cancel()
