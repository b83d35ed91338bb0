"""What is wrong with a set-up: one finding after the other, each with what mends it.

The checks go from the inside out: configuration, files, name, port, TLS, credentials, server, streams, permissions.
Where one fails on which the others depend, the rest is left out.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.admin.doctor.permission_probe import STAND_IN, concrete, may_send
from agentbus.admin.doctor.reachability import is_local, reach
from agentbus.bus import setup
from agentbus.bus.jetstream import Bus
from agentbus.bus.replicas import Replicas, copies
from agentbus.config.connection_settings import ConnectionSettings, Credentials, connection_settings
from agentbus.config.schema import CoordinatorConfig, WorkerConfig
from agentbus.coordinator import Coordinator
from agentbus.errors import (
    AgentBusError,
    AuthenticationError,
    BusError,
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
)
from agentbus.protocol import permissions, subjects
from agentbus.protocol.permissions import Party
from agentbus.protocol.timestamps import parse_time

Role = Literal["coordinator", "worker", "administrator"]

_CONNECT_S: Final = 5.0
_CLOCK_S: Final = 2.0
_DISK_LOW: Final = 1 << 30
_DISK_OUT: Final = 100 << 20
_NEARLY_FULL: Final = 0.85
_PROBE_S: Final = 120.0
_PROBE: Final = "This is a test of the connection. Do nothing, and answer with the one word: pong"


async def examine(
    role: Role, config: CoordinatorConfig | WorkerConfig, source: str, *, probe: str | None = None
) -> AsyncGenerator[Finding]:
    """Check everything that a role needs, with its own configuration and credentials.

    Args:
        source: where the configuration comes from, for a person.
        probe: an agent to give a small task to, for a round trip through a real worker.
    """
    yield ok("configuration", source)
    if isinstance(config, WorkerConfig):
        async for finding in _machine(config):
            yield finding
    agent = config.agent.id if isinstance(config, WorkerConfig) else config.coordinator.id
    try:
        settings = connection_settings(config.nats, agent=agent, name="agentbus doctor")
    except AgentBusError as error:
        yield failed("credentials", str(error))
        return
    reached = False
    for url in settings.urls:
        async for finding in reach(url, settings):
            yield finding
            reached = reached or (finding.check == "tcp" and finding.verdict == "ok")
    if not reached:
        return
    said: list[str] = []
    signed_in = False
    try:
        async with _open(settings, said) as bus:
            signed_in = True
            yield ok("sign-in", f"{_identity(settings)}, on {settings.servers}")
            async for finding in _bus(role, config, bus, said, settings):
                yield finding
            if probe is not None:
                yield await _round_trip(bus, agent, probe)
    except BusUnavailableError as error:
        fix = "start the server; of a cluster, more than half of the servers must be up"
        yield failed("answers", str(error), fix) if signed_in else failed("sign-in", str(error))
    except AgentBusError as error:
        yield failed("sign-in", str(error), _sign_in_fix(role) if isinstance(error, AuthenticationError) else "")


@asynccontextmanager
async def _open(settings: ConnectionSettings, said: list[str]) -> AsyncGenerator[Bus]:
    bus = Bus(settings, said.append)
    try:
        async with asyncio.timeout(_CONNECT_S):
            await bus.open(patient=False)
        yield bus
    except TimeoutError:
        raise BusError(f"no answer from {settings.servers} within {_CONNECT_S:g} s") from None
    finally:
        await bus.close()


def _identity(settings: ConnectionSettings) -> str:
    credentials = settings.credentials
    if credentials.user:
        return f"as {credentials.user}"
    kinds = {
        "a .creds file": credentials.jwt,
        "an nkey": credentials.nkey_seed,
        "a token": credentials.token,
        "a client certificate": settings.cert_file,
    }
    return next((f"with {kind}" for kind, value in kinds.items() if value), "without credentials")


def _sign_in_fix(role: Role) -> str:
    whom = {"worker": "agentbus agent bundle ID", "coordinator": "agentbus agent bundle main"}.get(role)
    return f"take credentials of this bus: {whom}" if whom else "take the administrator's credentials of this bus"


# -- this machine -----------------------------------------------------------------------------------------------


async def _machine(config: WorkerConfig) -> AsyncGenerator[Finding]:
    program = config.agent.chat_cmd[0]
    found = shutil.which(program)
    if found is None:
        yield failed(
            "chat_cmd", f"{program} is not on the PATH of this user", "install it, or write its full path in chat_cmd"
        )
    else:
        yield await _version_of(found)
    for name, folder in (("state_dir", config.worker.state_dir), ("log dir", config.log.dir)):
        yield _folder(name, folder)


async def _version_of(program: str) -> Finding:
    """What the agent command says of its version; many print it, and one that does not may still be right."""
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        return failed("chat_cmd", f"{program} cannot be started: {error.strerror or error}", "install it again")
    try:
        async with asyncio.timeout(_CONNECT_S):
            output, _ = await child.communicate()
    except TimeoutError:
        return warning("chat_cmd", f"{program} does not answer to --version", "run it by hand, as the worker's user")
    finally:
        _end(child)
    first = output.decode(errors="replace").strip().partition("\n")[0][:120]
    return ok("chat_cmd", f"{program}: {first}" if child.returncode == 0 and first else program)


def _end(child: asyncio.subprocess.Process) -> None:
    """End a command, with whatever it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, 9)
        elif child.returncode is None:
            child.kill()


def _folder(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed(name, f"{there} cannot be written to", f"make {folder} writable for this user, or name another")
    free = shutil.disk_usage(there).free
    text = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < _DISK_OUT:
        return failed(name, text, "make room: outcomes and large outputs are written there first")
    if free < _DISK_LOW:
        return warning(name, text, "make room: outcomes and large outputs are written there first")
    return ok(name, text)


# -- on the bus -------------------------------------------------------------------------------------------------


async def _bus(
    role: Role, config: CoordinatorConfig | WorkerConfig, bus: Bus, said: list[str], settings: ConnectionSettings
) -> AsyncGenerator[Finding]:
    if text := setup.version_warning(bus.server_version):
        yield warning("server", text, "upgrade the server")
    else:
        yield ok("server", f"nats-server {bus.server_version}")
    async for finding in _clock(bus, config):
        yield finding
    async for finding in _streams(role, bus, config):
        yield finding
    party = _party(role, config)
    missing = [item async for item in _refused(bus, party, said)]
    if missing:
        what = ", ".join(missing)
        yield failed("permissions", f"this user may not use {what}", "grant it: see docs/explanation/security.md")
    else:
        yield ok("permissions", f"everything that the {role} needs")
    if role != "administrator":
        yield await _too_much(bus, role, settings)


async def _clock(bus: Bus, config: CoordinatorConfig | WorkerConfig) -> AsyncGenerator[Finding]:
    worker = isinstance(config, WorkerConfig)
    verb = f"CONSUMER.INFO.{config.nats.stream}.{config.durable}" if worker else f"STREAM.INFO.{subjects.TASKS_STREAM}"
    before = time.time()
    try:
        answer = await bus.api(verb)
    except (PermissionDeniedError, SetupMissingError):
        return
    took_s = time.time() - before
    if "ts" not in answer:
        return
    off = parse_time(answer["ts"]).timestamp() - (before + took_s / 2)
    if abs(off) > _CLOCK_S + took_s:
        text = f"this machine is {abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} the server"
        yield warning(
            "clock", text, "set it by NTP: leases go by the server's clock, but logs and times of tasks do not"
        )
    else:
        yield ok("clock", "agrees with the server's")


async def _streams(role: Role, bus: Bus, config: CoordinatorConfig | WorkerConfig) -> AsyncGenerator[Finding]:
    if isinstance(config, WorkerConfig):
        yield await _consumer(bus, config)
        return
    names = [subjects.TASKS_STREAM, subjects.RESULTS_STREAM]
    agents: list[str] = []
    if role == "administrator":
        names += [subjects.DEAD_STREAM, subjects.STATE_STREAM, subjects.REGISTRY_STREAM]
        with suppress(BusError):
            agents = await setup.known_agents(bus)
    try:
        async for item in setup.compare(bus, names, agents):
            yield _as_wanted(item)
    except PermissionDeniedError as error:
        yield failed("streams", str(error), _grant(error))
    if role == "administrator":
        names += [f"OBJ_{subjects.files_bucket(agent)}" for agent in agents]
    complete: list[Replicas] = []
    for name in names:
        with suppress(BusError):
            info = await bus.api(f"STREAM.INFO.{name}")
            if finding := _room(name, info):
                yield finding
            found = copies(name, info)
            if finding := _copies(found):
                yield finding
            elif found.cluster:
                complete.append(found)
    if complete:
        leaders = ", ".join(sorted({one.leader for one in complete}))
        text = f"{len(complete)} streams have all their copies, and all are current; led by {leaders}"
        yield ok("cluster", text)


def _grant(error: PermissionDeniedError) -> str:
    """What to do about a refusal, if its text does not say it."""
    return "" if "inbox_prefix" in str(error) else "grant it: see docs/explanation/security.md"


def _as_wanted(item: setup.Finding) -> Finding:
    if item.outcome == "missing":
        return failed("streams", f"the {item.kind} {item.name} does not exist", "agentbus setup, as the administrator")
    if item.outcome == "different":
        return warning(
            "streams",
            f"the {item.kind} {item.name}: {'; '.join(item.differences)}",
            "agentbus setup --update, as the administrator, unless it is meant to be so",
        )
    return ok("streams", f"the {item.kind} {item.name} is as wanted")


def _copies(found: Replicas) -> Finding | None:
    """What is wrong with the copies of a stream in a cluster."""
    if not found.cluster:
        return None
    if not found.leader:
        return failed("cluster", str(found), "start the servers of the cluster: more than half of them must be up")
    if not found.complete:
        fix = "start the servers that are offline; if all are up, wait: copies catch up by themselves"
        return warning("cluster", str(found), fix)
    if found.wanted == 1:
        text = f"{found.name} has one copy, on {found.leader}: it stands still when that server does"
        return warning("cluster", text, "agentbus setup --replicas 3, as the administrator")
    return None


def _room(name: str, info: dict[str, Any]) -> Finding | None:
    limit, used = int(info["config"].get("max_bytes", -1)), int(info["state"]["bytes"])
    if limit <= 0 or used < _NEARLY_FULL * limit:
        return None
    text = f"{name} holds {used / limit:.0%} of its {limit / (1 << 20):.0f} MiB"
    return warning("room", text, "raise its max_bytes: once it is full, it refuses what comes next")


async def _consumer(bus: Bus, config: WorkerConfig) -> Finding:
    name, stream = config.durable, config.nats.stream
    setup = f"agentbus setup --agent {config.agent.id}, as the administrator"
    try:
        info = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
    except SetupMissingError:
        return failed("consumer", f"the consumer {name} of {stream} does not exist", setup)
    except PermissionDeniedError as error:
        return failed("consumer", str(error), _grant(error))
    found = info["config"].get("filter_subject")
    if found != subjects.tasks(config.agent.id):
        return failed("consumer", f"the consumer {name} takes {found}", "set durable in [nats] to that of this agent")
    return ok("consumer", f"{name}: {info['num_pending']} tasks wait, {info['num_ack_pending']} are being worked on")


# -- permissions ------------------------------------------------------------------------------------------------


def _party(role: Role, config: CoordinatorConfig | WorkerConfig) -> Party:
    if isinstance(config, WorkerConfig):
        return permissions.worker(config.agent.id)
    return permissions.administrator() if role == "administrator" else permissions.coordinator([])


async def _refused(bus: Bus, party: Party, said: list[str]) -> AsyncGenerator[str]:
    """What this user should be allowed and is not."""
    for subject in party.of("send") + party.of("pull"):
        if subject.startswith("$JS.ACK.*"):
            continue  # the form of servers with domains; the other one is tried
        # Nobody answers for a consumer that is not there.
        if not await may_send(bus, concrete(subject), answered=subject not in party.of("pull") or "*" not in subject):
            yield subject
    for subject in party.of("tell"):
        if not await may_send(bus, concrete(subject), answered=False):
            yield subject
    for subject in party.of("listen"):
        end = await bus.subscribe(subject, _ignore)
        with suppress(BusError):
            await may_send(bus, bus.new_inbox(), answered=False)  # there and back: a refusal has come by then
        await end()
        if any(f"subscribe to {subject.lower()}" in text.lower() for text in said):
            yield subject


def _ignore(_: object) -> None:
    return None


def _forbidden(role: Role) -> Iterable[tuple[str, str]]:
    yield "delete streams", subjects.api(f"STREAM.DELETE.{STAND_IN}")
    yield "empty streams", subjects.api(f"STREAM.PURGE.{STAND_IN}")
    yield "make streams", subjects.api(f"STREAM.CREATE.{STAND_IN}")
    yield "delete messages", subjects.api(f"STREAM.MSG.DELETE.{STAND_IN}")
    yield "delete consumers", subjects.api(f"CONSUMER.DELETE.{STAND_IN}.{STAND_IN}")
    if role == "worker":
        yield "give tasks to other agents", subjects.tasks(STAND_IN)
        yield "write the states of other agents' tasks", subjects.state(STAND_IN, STAND_IN)


async def _too_much(bus: Bus, role: Role, settings: ConnectionSettings) -> Finding:
    found = [what for what, subject in _forbidden(role) if await may_send(bus, subject)]
    if not found:
        return ok("limits", f"nothing that a {role} must not do")
    local = all(is_local(url) for url in settings.urls)
    if local and settings.credentials == Credentials():
        return ok("limits", "none: everybody on this machine may do everything, as with `agentbus up`")
    return warning(
        "limits",
        f"this user may also {', '.join(found)}",
        "give each party the permissions in docs/explanation/security.md; agentbus init makes such a bus",
    )


# -- a task -----------------------------------------------------------------------------------------------------


async def _round_trip(bus: Bus, me: str, agent: str) -> Finding:
    coordinator = Coordinator(bus, me)
    try:
        if not await coordinator.agents(agent):
            return failed(
                "round trip", f"no worker of {agent} is alive", f"start one: agentbus worker run, for {agent}"
            )
        [task] = await coordinator.publish(agent, _PROBE, task_type="agentbus.probe")
        waited = await coordinator.wait([task.id], timeout_s=_PROBE_S)
        status = waited.settled.get(task.id)
        if status is None:
            await coordinator.cancel(task.id, reason="the doctor has waited long enough")
            return failed(
                "round trip", f"{agent} has not answered within {_PROBE_S:g} s", "look at the log of its worker"
            )
        result = status.result
        if status.state == "completed":
            return ok("round trip", f"{agent} answered: {str(result.result).strip()[:80] if result else ''!r}")
        why = result.error if result else status.state
        return failed("round trip", f"{agent}: {why}", "look at the log of its worker, and run its chat_cmd by hand")
    except AgentBusError as error:
        return failed("round trip", str(error))
