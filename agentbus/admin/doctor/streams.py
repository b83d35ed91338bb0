"""Checks the streams: their configuration, their room, their replicas, and that the queue holds what is queued."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Final

from agentbus.admin.doctor.check_context import CheckContext, how_to_grant
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.admin.ledger_division import is_due
from agentbus.bus import setup
from agentbus.bus.bounds.fill import NEARLY_FULL, WARNED_FROM, coming_to_each, remedy, warning_of
from agentbus.bus.bounds.subject_counts import subject_counts
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.reading.ledger_parts import agent_ledgers, name_of
from agentbus.bus.replicas import Replicas, replicas_of
from agentbus.bus.wanted.setup_plan import Finding as SetupFinding
from agentbus.config.schema import CoordinatorConfig
from agentbus.errors import BusError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties import agent_control
from agentbus.protocol.parties.ledger_streams import is_ledger, ledger_of
from agentbus.protocol.work import input_names
from agentbus.tasks.lost.lost_tasks import lost_tasks
from agentbus.tasks.status import Loss, TaskStatus

_MOST_NAMED: Final = 5
_WORDS: Final = {"progress": "stream", "inputs": "bucket"}
"""What the kinds of a set-up are to NATS, where that is another word."""
_FINISH: Final = "agentbus init --upgrade, in the folder of the bus"
_THEN: Final = {
    subjects.STATE_STREAM: f"from {NEARLY_FULL:.0%} on, no task is taken",
    subjects.RESULTS_STREAM: f"from {NEARLY_FULL:.0%} on, no task is taken",
    subjects.TASKS_STREAM: "a full stream refuses new tasks",
    subjects.DEAD_STREAM: "what a full stream does not take is not kept",
    audit.STREAM: "in a full audit each new line takes the place of the oldest",
    audit.SAID_STREAM: "in a full audit each new line takes the place of the oldest",
}
_OF_COORDINATOR: Final = (subjects.TASKS_STREAM, subjects.RESULTS_STREAM)
_OF_ADMINISTRATOR: Final = (
    *_OF_COORDINATOR,
    subjects.DEAD_STREAM,
    audit.STREAM,
    audit.SAID_STREAM,
    subjects.STATE_STREAM,
    subjects.REGISTRY_STREAM,
    agent_control.STREAM,
)


async def check_streams(context: CheckContext) -> AsyncIterator[Finding]:
    """Check the streams that a coordinator may look at."""
    async for finding in _check(context, _OF_COORDINATOR, ()):
        yield finding
    with suppress(BusError):  # a member of a bus of an earlier layout may not look
        ledgers = await agent_ledgers(context.bus)
        coming = await _coming(context.bus)
        for info in ledgers if ledgers is not None else [await context.bus.stream_info(subjects.STATE_STREAM)]:
            for finding in _room(info, coming.get(name_of(info), 0)):
                yield finding
        if ledgers is not None and not await _has_own_ledger(context):
            text = f"the ledger of {context.agent} does not exist: its MCP clients have no tasks of their own"
            fix = f"agentbus setup --coordinator {context.agent}, as the administrator"
            yield failed("streams", text, fix)


async def _has_own_ledger(context: CheckContext) -> bool:
    """Whether the coordinator has what the MCP tasks of its clients are kept in; a viewer has none."""
    try:
        await context.bus.stream_info(ledger_of(context.agent))
    except SetupMissingError:
        return False
    except PermissionDeniedError:
        pass
    return True


async def check_all_streams(context: CheckContext) -> AsyncIterator[Finding]:
    """Check all streams and buckets, and the consumers and file buckets of all agents."""
    for name in await context.bus.misplaced_streams():
        text = f"{name} lies in the account BUS, and belongs into TASKS: publishing is refused, and its tasks wait"
        yield failed("layout", text, _FINISH)
    if context.folder.ledgers_apart and await is_due(context.bus):
        yield failed("layout", "the ledger is not divided yet: no task can be published, taken or read", _FINISH)
    agents: Sequence[str] = ()
    names: Sequence[str] = _OF_ADMINISTRATOR
    with suppress(BusError):
        agents = await setup.known_agents(context.bus)
        if (ledgers := await agent_ledgers(context.bus)) is not None:
            names = [*(name for name in names if name != subjects.STATE_STREAM), *map(name_of, ledgers)]
    async for finding in _check(context, names, agents):
        yield finding


async def _check(context: CheckContext, names: Sequence[str], agents: Sequence[str]) -> AsyncIterator[Finding]:
    bus = context.bus
    try:
        async for item in setup.compare(bus, names, agents):
            yield _as_wanted(item)
    except PermissionDeniedError as error:
        yield failed("streams", str(error), how_to_grant(error))
    complete: list[Replicas] = []
    coming: dict[str, int] = {}
    with suppress(BusError):
        coming = await _coming(bus)
    of_agents = (name(agent) for agent in agents for name in (subjects.files_stream, input_names.stream))
    for name in (*names, *of_agents):
        with suppress(BusError):
            info = await bus.stream_info(name)
            replicas = replicas_of(name, info.cluster, info.num_replicas)
            wrong = [*_room(info, coming.get(name, 0)), *(await _writers(bus, name, info)), *_replicas(replicas)]
            for finding in wrong:
                yield finding
            if replicas.cluster and not any(finding.check == "cluster" for finding in wrong):
                complete.append(replicas)
    if complete:
        leaders = ", ".join(sorted({one.leader for one in complete}))
        text = f"{len(complete)} streams have all their replicas, and all are current; led by {leaders}"
        yield ok("cluster", text)


def _as_wanted(item: SetupFinding) -> Finding:
    what = f"the {_WORDS.get(item.kind, item.kind)} {item.name}"
    if item.outcome == "missing" and item.name == agent_control.STREAM:  # a bus of an older layout works without
        text = f"{what} does not exist: no operator can pause an agent"
        return warning("streams", text, "agentbus setup, as the administrator")
    if item.outcome == "missing" and item.kind == "progress":
        text = f"{what} does not exist, so what the runs of its agent do cannot be followed"
        return warning("streams", text, "agentbus setup, as the administrator")
    if item.outcome == "missing" and item.kind == "inputs":
        text = f"{what} does not exist, so no task can bring files to its agent"
        return warning("streams", text, "agentbus setup, as the administrator")
    if item.outcome == "missing":
        return failed("streams", f"{what} does not exist", "agentbus setup, as the administrator")
    if item.outcome == "different":
        return warning(
            "streams",
            f"{what}: {'; '.join(item.differences)}",
            "agentbus setup --update, as the administrator, unless you changed it on purpose",
        )
    return ok("streams", f"{what} is as wanted")


async def _coming(bus: Bus) -> dict[str, int]:
    """Return what the accepted tasks will add to each stream of the ledger."""
    return coming_to_each(await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.all_of("*")))


def _room(info: StreamInfo, coming: int = 0) -> Iterator[Finding]:
    """Yield a warning if a stream is nearly full."""
    if text := warning_of(info, coming):
        then = _THEN.get(_kind_of(str(info.config.get("name"))), "a full stream refuses new messages")
        yield warning("room", text, f"{remedy(info)}: {then}")


def _kind_of(stream: str) -> str:
    return subjects.STATE_STREAM if is_ledger(stream) else stream


async def _writers(bus: Bus, name: str, info: StreamInfo) -> list[Finding]:
    """Return a warning for each writer that is near its bound in an inbox."""
    if not info.refuses_per_subject:
        return []
    counts = await subject_counts(bus, name, ">")
    near = sorted(subject for subject, count in counts.items() if count >= WARNED_FROM * info.max_per_subject)
    return [
        warning(
            "room",
            f"{name} holds {counts[subject]} of {info.max_per_subject} results on {subject}",
            f"nats stream purge {name} --subject {subject} --keep N, or raise its max_bytes and run agentbus setup "
            "--update: from 90% on, that agent gets no task for this inbox",
        )
        for subject in near
    ]


def _replicas(found: Replicas) -> Iterator[Finding]:
    """Yield what is wrong with the replicas of a stream in a cluster."""
    if not found.cluster:
        return
    if not found.leader:
        yield failed("cluster", str(found), "start the servers of the cluster: more than half of them must be up")
    elif not found.complete:
        fix = "start the servers that are offline; if all are up, wait until the replicas have caught up"
        yield warning("cluster", str(found), fix)
    elif found.wanted == 1:
        text = f"{found.name} has one replica, on {found.leader}: it is unavailable while that server is down"
        yield warning("cluster", text, "agentbus setup --replicas 3, as the administrator")


async def check_lost_tasks(context: CheckContext) -> AsyncIterator[Finding]:
    """Name the tasks that are lost, or may be. The checks change nothing, so they settle none of them."""
    owner = None
    if context.role == "coordinator":
        assert isinstance(context.config, CoordinatorConfig), "a coordinator is checked"
        role = context.config.coordinator.effective_role
        context.bus.reads_queue = role == "operator"
        owner = context.agent if role == "member" else None
    try:
        found = await lost_tasks(context.bus, owner=owner, asker=context.agent, settles=False, newest=None)
    except (PermissionDeniedError, SetupMissingError):
        return  # other checks say so
    if not found:
        yield ok("lost tasks", "none is known: the queue holds what the ledger has as queued")
        return
    fix = "publish each again with its id, or end it: agentbus task cancel ID"
    sure = [one for one in found if one.loss is Loss.PROVED]
    if sure:
        text = f"the queue does not hold {_named(sure)}, so no worker will get it"
        yield warning("lost tasks", text, fix)
    else:
        yield warning("lost tasks", f"{_named(found)} may be lost: the queue holds less than is queued", fix)


def _named(found: Sequence[TaskStatus]) -> str:
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(str(one.name) for one in found[:_MOST_NAMED]) + more
