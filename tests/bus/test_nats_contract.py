"""An update of nats-py that moves anything that agentbus relies on is refused before a server is dialled."""

# pyright: reportPrivateUsage=none

import ast
import asyncio
import inspect
import os
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.protocol import parser
from nats.protocol.parser import Parser

from agentbus.bus import nats_client, nats_contract, write_batching
from agentbus.bus.jetstream import connect
from agentbus.bus.nats_contract import AWAITING_MSG_PAYLOAD, Method
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import IncompatibleClientError
from support.fake_server import fake_server
from support.harness import BOUND_S, ROOT

METHODS = (*nats_contract.OVERRIDDEN, *nats_contract.CALLED)
OF_ASYNCIO = {"_over_ssl", "_buffer"}
"""Private names of asyncio's streams; without them nothing but a warning or the reason of an error is lost."""
Patch = Callable[[pytest.MonkeyPatch], None]


def renamed(owner: Any, name: str) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        found = inspect.getattr_static(owner, name)
        monkeypatch.delattr(owner, name)
        monkeypatch.setattr(owner, f"{name}_renamed", found, raising=False)

    return patch


def replaced(name: str, value: Any) -> Patch:
    return lambda monkeypatch: monkeypatch.setattr(Client, name, value)


def made_otherwise(owner: Any, name: str, value: Any = None) -> Patch:
    """Instances have the attribute under another name, or with another value."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        make = owner.__init__

        def init(self: Any, *args: Any) -> None:
            make(self, *args)
            setattr(self, f"{name}_renamed", getattr(self, name))
            delattr(self, name)
            if value is not None:
                setattr(self, name, value)

        monkeypatch.setattr(owner, "__init__", init)

    return patch


def field_renamed(owner: Any, name: str) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        known = {other: field for other, field in owner.__dataclass_fields__.items() if other != name}
        monkeypatch.setattr(owner, "__dataclass_fields__", known)

    return patch


def not_called(caller: str) -> Patch:
    owner, _, function = caller.partition(".")

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nats_contract._CLASSES[owner], function, other_plain)

    return patch


async def other_async(self: Any, other: Any) -> None: ...


def other_plain(self: Any, other: Any) -> None: ...


def changes() -> dict[str, tuple[str, Patch]]:
    """What is said to be broken, and how to break it, by a name for each."""
    found: dict[str, tuple[str, Patch]] = {}
    for method in METHODS:
        part = f"Client.{method.name}"
        other = other_async if method.is_async else other_plain
        found[f"{part} renamed"] = (part, renamed(Client, method.name))
        found[f"{part} takes other parameters"] = (part, replaced(method.name, other))
        found[f"{part} is no method"] = (part, replaced(method.name, None))
        for caller in method.called_by:
            if caller not in {f"Client.{other.name}" for other in METHODS}:  # those would be missed themselves
                found[f"{part} not called by {caller}"] = ("Client._", not_called(caller))
    for name in nats_contract.PROPERTIES:
        found[f"{name} renamed"] = (name, renamed(Client, name))
        found[f"{name} is no property"] = (name, replaced(name, None))
    for name, kind in nats_contract.ATTRIBUTES.items():
        found[f"{name} renamed"] = (f"Client.{name}", made_otherwise(Client, name))
        if kind is not None:
            found[f"{name} of another type"] = (f"Client.{name}", made_otherwise(Client, name, object()))
    for name in nats_contract.HEADS:
        found[f"{name} renamed"] = (f"parser.{name}", renamed(parser, name))
        found[f"{name} of another type"] = (f"parser.{name}", lambda patch, name=name: patch.setattr(parser, name, b""))
    for name in nats_contract.TRANSPORT_ATTRIBUTES:
        found[f"{name} renamed"] = (f"TcpTransport.{name}", made_otherwise(TcpTransport, name))
    for name in nats_contract.SERVER_FIELDS:
        found[f"Srv.{name} renamed"] = (f"Srv.{name}", field_renamed(Srv, name))
    for name in nats_contract.MESSAGE_FIELDS:
        found[f"Msg.{name} renamed"] = ("Msg", field_renamed(Msg, name))
    for name in nats_contract.ERRORS:
        found[f"{name} renamed"] = (f"nats.errors.{name}", renamed(nats.errors, name))
    return found | changes_of_the_parser()


def changes_of_the_parser() -> dict[str, tuple[str, Patch]]:
    found = {"state begins otherwise": ("Parser.state", made_otherwise(Parser, "state", AWAITING_MSG_PAYLOAD))}
    for name in nats_contract.PARSER_ATTRIBUTES:
        found[f"Parser.{name} renamed"] = (f"Parser.{name}", made_otherwise(Parser, name))
        found[f"Parser.{name} of another type"] = (f"Parser.{name}", made_otherwise(Parser, name, object()))
    return found


CHANGES = changes()


@asynccontextmanager
async def listening(greeting: bytes = b"") -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A port, and what each connection to it has sent."""
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        received.append(await reader.read(65536))
        writer.close()

    async with fake_server(listen) as port:
        yield port, received


async def dial(port: int) -> None:
    section = NatsSection(url=f"nats://someone:secret@127.0.0.1:{port}")
    async with connect(connection_settings(section, agent="main", name="test")):
        pass


def test_the_installed_nats_py_keeps_the_contract() -> None:
    nats_contract.check()


@pytest.mark.parametrize("change", CHANGES)
async def test_each_part_that_is_changed_is_refused_by_name_before_anything_is_dialled(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, patch = CHANGES[change]
    async with listening() as (port, received):
        with monkeypatch.context() as patched:
            patch(patched)
            with pytest.raises(IncompatibleClientError) as refused:
                await dial(port)
    assert part in refused.value.name
    assert str(refused.value).startswith(f"nats-py 2.16.0 cannot be used: {refused.value.name} ")
    assert nats_contract.TESTED in str(refused.value)
    assert "\n" not in str(refused.value)
    assert received == []


@pytest.mark.parametrize("is_async", [True, False])
def test_a_method_that_has_become_async_or_is_so_no_more_is_refused(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Method("_probe", ("other",), is_async=is_async)
    monkeypatch.setattr(Client, "_probe", other_plain if is_async else other_async, raising=False)
    with pytest.raises(IncompatibleClientError, match="is not async" if is_async else "is async"):
        nats_contract._check_method(method)


@pytest.mark.parametrize("name", nats_contract.TRANSPORT_ATTRIBUTES)
async def test_a_transport_of_another_shape_gets_no_credentials(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_transport(client: Any, s: Any) -> None:
        await connect_to_server(client, s)
        delattr(client._transport, name)

    connect_to_server: Any = vars(Client)["_connect_to_server"]
    monkeypatch.setattr(Client, "_connect_to_server", open_transport)
    greeting = b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n'
    async with listening(greeting) as (port, received):
        with pytest.raises((IncompatibleClientError, AttributeError)):
            await dial(port)
        async with asyncio.timeout(BOUND_S):
            while not received:  # noqa: ASYNC110  # another coroutine of this loop appends to it
                await asyncio.sleep(0.01)
    assert received == [b""]


BREAK = (
    "import sys; from nats.aio.client import Client as C; C._moved = C._connect_command; del C._connect_command; "
    "from {module} import main; sys.argv = {words}; main()"
)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("agentbus.cli", ["agentbus", "task", "publish", "--to", "code", "--task-type", "review", "hello"]),
        ("agentbus.cli", ["agentbus", "worker", "run"]),
        ("agentbus_worker.__main__", ["agentbus-worker"]),
        ("agentbus_mcp.cli", ["agentbus-mcp"]),
    ],
)
async def test_the_commands_the_worker_and_the_mcp_server_refuse_to_start_with_one_line(
    module: str, words: list[str], tmp_path: Path
) -> None:
    async with listening() as (port, received):
        url = f"nats://127.0.0.1:{port}"
        (tmp_path / "agentbus.toml").write_text(
            f'[nats]\nurl = "{url}"\n[worker]\nagent_id = "code"\nchat_cmd = ["true"]\n', encoding="utf-8"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", BREAK.format(module=module, words=words)),
            cwd=tmp_path,
            env={**os.environ, "AGENTBUS_NATS_URL": url, "HOME": str(tmp_path)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 1
    lines = err.decode().splitlines()
    assert len(lines) == 1, err.decode()
    assert lines[0].startswith("error: nats-py 2.16.0 cannot be used: Client._connect_command is missing.")
    assert (out, received) == (b"", [])


def test_a_nats_py_without_a_module_is_refused_by_name() -> None:
    code = (
        "import sys; sys.modules['nats.aio.transport'] = None; from agentbus.cli import main; "
        "sys.argv = ['agentbus', 'status']; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: nats-py 2.16.0 cannot be used: nats.aio.transport cannot be imported")


# -- the table is complete --------------------------------------------------------------------------------------


def trees() -> list[ast.Module]:
    return [
        ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")) for module in (nats_client, write_batching)
    ]


def our_names() -> set[str]:
    """Methods of our classes, and what their `__init__` gives a value, unless nats-py has a name like it."""
    found: set[str] = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                found |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return found


def names_of_nats_py() -> set[str]:
    return {*dir(Client), *vars(Client()), *vars(TcpTransport())}


def test_every_private_name_of_nats_py_that_is_used_stands_in_the_table() -> None:
    used: set[str] = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                used.add(node.value)  # of a getattr
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    table = {method.name for method in METHODS} | {
        *nats_contract.PROPERTIES,
        *nats_contract.ATTRIBUTES,
        *nats_contract.TRANSPORT_ATTRIBUTES,
    }
    assert private - (our_names() - names_of_nats_py()) - OF_ASYNCIO <= table


def test_every_method_that_overrides_one_of_nats_py_stands_in_the_table() -> None:
    defined = {name for cls in (nats_client.Client, write_batching.BatchingClient) for name in vars(cls)}
    overridden = {name for name in defined & set(dir(Client)) if not name.startswith("__")}
    assert overridden == {method.name for method in nats_contract.OVERRIDDEN} | set(nats_contract.PROPERTIES)


def test_every_error_of_nats_py_that_is_used_stands_in_the_table() -> None:
    used = {
        node.attr
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "errors"
    }
    assert used <= set(nats_contract.ERRORS)


def test_no_name_of_ours_is_one_of_nats_py_as_well() -> None:
    """It would change what nats-py does without a sign of it."""
    made = {name for name in our_names() if name.startswith("_") and not name.startswith("__")}
    table = {method.name for method in nats_contract.OVERRIDDEN}
    assert made & names_of_nats_py() <= table


def test_the_package_asks_for_the_minor_version_that_was_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert nats_contract.TESTED in project["dependencies"]
