"""Who may do what on the bus: the one table that configurations, documentation and tests are made from.

A party is granted subjects, each group for one purpose. The same grants are written in two ways: as the permission
lists of users in one account (`config/nats-server.conf`, for parties that trust each other), and as the imports of an
account of its own for each party (`agentbus init`), which hold a hostile party too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agentbus.protocol import accounts, subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.conversations import places
from agentbus.protocol.parties import agent_control, input_grants, ledger_grants
from agentbus.protocol.parties.party import Grant, Party
from agentbus.protocol.progress import names as progress
from agentbus.protocol.roles import Role

ADMINISTRATOR: Final = "admin"
RESERVED: Final = frozenset({ADMINISTRATOR, subjects.COORDINATOR})
"""Ids that no worker's agent may have: they name parties of the bus itself."""

MAX_CONNECTIONS_OF_VIEWERS: Final = 16
"""A viewer is one person, or a program that shows the bus."""
MAX_SUBSCRIPTIONS_OF_READERS: Final = 256
"""Of a connection of a party that waits for results: earlier versions took one for each wait, list and inbox."""


def administrator() -> Party:
    """Who sets the bus up, reads and requeues dead letters, and deletes.

    It has a user inside each account of streams: backups are not restored through an import.
    """
    return Party(
        ADMINISTRATOR,
        (
            Grant("streams, buckets, consumers, dead letters", (subjects.api(">"),)),
            Grant("a dead letter that is queued again", (subjects.TASK_SUBJECTS,)),
            Grant(
                "the same, from a publisher that the subject names",
                (subjects.ATTESTED_TASK_SUBJECTS,),
                since=accounts.LAYOUT_WITH_QUEUE_APART,
            ),
            Grant(
                "what it did with dead letters, for the audit",
                audit.said_by_administrator(ADMINISTRATOR),
                since=accounts.LAYOUT_WITH_AUDIT,
            ),
            Grant("backups, piece by piece", ("$JS.SNAPSHOT.>",), "tell"),
            Grant("what the server tells of them", ("$JS.EVENT.ADVISORY.>",), "listen"),
        ),
    )


def within(party: Party, account: accounts.Account) -> Party:
    """Return an administrator with what it needs inside one of the two accounts of streams.

    In the account of the other streams it cannot make the queue: a command with one of two credentials would.
    """
    if account == accounts.TASKS:
        return party
    of_queue = {subject for subject in party.publish if accounts.account_of(subject) == accounts.TASKS}
    grants = tuple(grant for grant in party.grants if not of_queue.intersection(grant.subjects))
    denied = tuple(subjects.api(f"STREAM.{verb}.{subjects.TASKS_STREAM}") for verb in ("CREATE", "RESTORE"))
    return replace(party, grants=grants, denied=denied)


def coordinator(
    me: str,
    role: Role,
    agents: Sequence[str],
    *,
    others: Sequence[str] = (),
    layout: int = accounts.LAYOUT_WITH_INPUTS,
) -> Party:
    """A coordinator with an id of its own: `main`, a person or a program.

    Args:
        agents: the agents of the bus or, for a member, those that it may give tasks to.
        others: further agents, also those that were removed, in whose ledgers it may see what it may see.
        layout: of the bus.
    """
    connections = MAX_CONNECTIONS_OF_VIEWERS if role == "viewer" else None
    return Party(
        me, _BY_ROLE[role](me, agents, _ledgers(agents, others, layout)), MAX_SUBSCRIPTIONS_OF_READERS, connections
    )


def _ledgers(agents: Sequence[str], others: Sequence[str], layout: int) -> Sequence[str] | None:
    """Return the agents with a ledger of their own; None on a bus with one ledger."""
    return tuple(dict.fromkeys((*agents, *others))) if layout >= accounts.LAYOUT_WITH_LEDGERS_APART else None


def _operator(me: str, agents: Sequence[str], ledgers: Sequence[str] | None) -> tuple[Grant, ...]:
    """Who gives tasks to every agent, sees and changes what becomes of those of all, and reads its own inbox.

    Args:
        ledgers: whose ledgers it reads; None where the ledger is not divided.
    """
    return (
        *_tasks_of_operator(me),
        Grant("changing the states of all tasks", (subjects.STATE_SUBJECTS,)),
        *ledger_grants.of_all(None if ledgers is None else (*ledgers, me)),
        *_AUDIT,
        _SAID,
        Grant("cancelling and pausing: the request is stored, this makes it fast", (subjects.control("*"),), "tell"),
        Grant(
            "pausing an agent, and letting it go on",
            (agent_control.key("*"),),
            since=accounts.LAYOUT_WITH_CONTROL,
        ),
        Grant(
            "that it paused an agent, for the audit",
            audit.SAID_BY_OPERATORS,
            attested=True,
            since=accounts.LAYOUT_WITH_CONTROL,
        ),
        *_PAUSED,
        _settled_by(me),
        *_inbox(me),
        *_STREAMS,
        Grant("the tasks that wait", (subjects.api(f"STREAM.MSG.GET.{subjects.TASKS_STREAM}"),)),
        *_ALIVE,
        *(
            grant
            for agent in agents
            for grant in (*_files_of(agent), *_progress_of(agent), input_grants.of_owner(agent, me))
        ),
        _SIGNS_OF_LIFE,
    )


def _tasks_of_operator(me: str) -> tuple[Grant, ...]:
    """Giving tasks to every agent; `main` also where versions before named coordinators take them."""
    named = (f"{subjects.TASK_SUBJECTS}.{me}",)
    attested = Grant("tasks for every agent, in its own name", named, since=accounts.LAYOUT_WITH_QUEUE_APART)
    return (
        (Grant("tasks for every agent", (subjects.TASK_SUBJECTS,)), attested)
        if me == subjects.COORDINATOR
        else (attested,)
    )


def _member(me: str, agents: Sequence[str], ledgers: Sequence[str] | None) -> tuple[Grant, ...]:
    """Who gives tasks to its agents, and sees and changes what becomes of its own.

    No grant of it covers a key, a file or an inbox of another owner: each holds its name.
    """
    return (
        *(grant for agent in agents for grant in _tasking(me, agent)),
        *ledger_grants.of_owner(me, agents, ledgers),
        _SAID,
        *_PAUSED,
        _settled_by(me),
        *_inbox(me),
        *_STREAMS,
        *_ALIVE,
        Grant("signs of life", (subjects.heartbeat("*"),), "listen"),
    )


def _tasking(me: str, agent: str) -> tuple[Grant, ...]:
    """Giving tasks to one agent, in one's own name."""
    return (
        Grant(
            f"tasks for {agent}, in its own name, and their states",
            (subjects.tasks_of(agent, me), subjects.states(agent, me)),
        ),
        Grant(f"cancelling tasks of {agent} fast", (subjects.control(agent),), "tell"),
        *_files_of(agent, owner=me),
        *_progress_of(agent, owner=me),
        input_grants.of_owner(agent, me),
    )


def _viewer(me: str, agents: Sequence[str], ledgers: Sequence[str] | None) -> tuple[Grant, ...]:
    """Who sees what becomes of all tasks, and writes nothing."""
    return (
        *ledger_grants.of_all(ledgers),
        *_AUDIT,
        *_PAUSED,
        *_inbox(me),
        *_STREAMS,
        *_ALIVE,
        *(grant for agent in agents for grant in (*_files_of(agent), *_progress_of(agent))),
        _SIGNS_OF_LIFE,
    )


_BY_ROLE: Final = {"operator": _operator, "member": _member, "viewer": _viewer}

_SAID: Final = Grant("what it did, for the audit", audit.SAID, attested=True, since=accounts.LAYOUT_WITH_AUDIT)
_LINES: Final = tuple(
    subject
    for stream in audit.STREAMS
    for subject in (subjects.create_consumer(stream, "*", audit.ALL), subjects.api(f"STREAM.INFO.{stream}"))
)
_PULLS: Final = tuple(subjects.pull(stream, "*") for stream in audit.STREAMS)
_AUDIT: Final = (
    Grant("reading who did what", _LINES, since=accounts.LAYOUT_WITH_AUDIT),
    Grant("the same, line by line", _PULLS, "pull", since=accounts.LAYOUT_WITH_AUDIT),
)

_STREAMS: Final = (
    Grant(
        "the state of the two streams, and the backlog of each agent",
        (
            subjects.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"),
            subjects.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}"),
            subjects.api(f"CONSUMER.LIST.{subjects.TASKS_STREAM}"),
        ),
    ),
)

_ALIVE: Final = (
    Grant("who is alive", (subjects.create_consumer(subjects.REGISTRY_STREAM, "*", subjects.REGISTRY_SUBJECTS),)),
    Grant("who is alive, one by one", (subjects.pull(subjects.REGISTRY_STREAM, "*"),), "pull"),
)


# Earlier versions listen to what runs tell, where this one reads it from streams: their doctor asks for the right.
_SIGNS_OF_LIFE: Final = Grant("signs of life", (subjects.heartbeat("*"), progress.of_agent("*")), "listen")

_PAUSED: Final = (
    Grant(
        "which agents an operator has paused",
        (subjects.create_consumer(agent_control.STREAM, "*", agent_control.KEYS),),
        since=accounts.LAYOUT_WITH_CONTROL,
    ),
    Grant(
        "the same, agent by agent",
        (subjects.pull(agent_control.STREAM, "*"),),
        "pull",
        since=accounts.LAYOUT_WITH_CONTROL,
    ),
)


def _settled_by(me: str) -> Grant:
    purpose = "results of its cancelled and expired tasks that no worker settles"
    return Grant(purpose, (subjects.results(me),), attested=True)


def _inbox(me: str) -> tuple[Grant, ...]:
    """Reading the inbox of this party: the results that every agent has sent to it."""
    results = subjects.RESULTS_STREAM
    return (
        Grant(
            "its inbox",
            (subjects.create_consumer(results, "*", subjects.inbox(me)),),
            since=accounts.LAYOUT_WITH_QUEUE_APART,
        ),
        Grant("its inbox, message by message", (subjects.pull(results, "*"),), "pull"),
    )


def _files_of(agent: str, owner: str | None = None) -> tuple[Grant, ...]:
    """Reading the stored outputs of an agent: of all tasks, or of those of one owner."""
    stream, bucket = subjects.files_stream(agent), subjects.files_bucket(agent)
    return (
        Grant(
            f"large outputs of {agent}",
            (
                subjects.last_of(stream, subjects.all_metas(bucket, owner)),
                subjects.create_consumer(stream, "*", subjects.all_chunks(bucket, owner)),
            ),
        ),
        Grant(f"large outputs of {agent}, piece by piece", (subjects.pull(stream, "*"),), "pull"),
    )


def _progress_of(agent: str, owner: str | None = None) -> tuple[Grant, ...]:
    """Reading what the runs of an agent do: of all tasks, or of those of one owner."""
    stream, told = progress.stream(agent), progress.of_agent(agent, owner)
    return (
        Grant(
            f"what runs of {agent} do",
            (subjects.last_of(stream, told), subjects.create_consumer(stream, "*", told)),
            since=accounts.LAYOUT_WITH_CONTROL,
        ),
        Grant(
            f"what runs of {agent} do, message by message",
            (subjects.pull(stream, "*"),),
            "pull",
            since=accounts.LAYOUT_WITH_CONTROL,
        ),
    )


def worker(
    agent: str,
    may_task: Sequence[str] = (),
    *,
    others: Sequence[str] = (),
    layout: int = accounts.LAYOUT_WITH_INPUTS,
) -> Party:
    """The workers of one agent: they take its tasks and write what is its own.

    Args:
        may_task: agents that it may give tasks to; with any, it is a member as well, in the name of the agent.
        others: see `coordinator`; for one that may give tasks.
        layout: of the bus. In the first one, no subject names the publisher of a task.
    """
    work = _work(agent)
    if not may_task:
        return Party(agent, work)
    ledgers = _ledgers(may_task, [one for one in others if one != agent], layout)
    apart = layout >= accounts.LAYOUT_WITH_QUEUE_APART
    giving = _member(agent, may_task, ledgers) if apart else (*_tasking_unnamed(may_task), *_inbox(agent))
    return Party(agent, (*work, *_beyond(work, giving)), MAX_SUBSCRIPTIONS_OF_READERS)


def _tasking_unnamed(agents: Sequence[str]) -> tuple[Grant, ...]:
    """Giving tasks to agents on a bus of the first layout, where their states have no owner."""
    state = subjects.STATE_STREAM
    given: list[Grant] = []
    for agent in agents:
        states = subjects.states(agent)
        reading = (subjects.last_of(state, states), subjects.create_consumer(state, "*", states))
        given += [
            Grant(f"tasks for {agent}, and their states", (subjects.tasks(agent), states, *reading)),
            Grant(f"cancelling tasks of {agent} fast", (subjects.control(agent),), "tell"),
        ]
    return (
        *given,
        Grant("whether the bus still keeps a task", (subjects.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"),)),
        Grant("following tasks, change by change", (subjects.pull(state, "*"),), "pull"),
    )


def _beyond(held: tuple[Grant, ...], more: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """Return what `more` grants beyond `held`: a subject that is granted twice would be imported twice."""
    left: list[Grant] = []
    for grant in more:
        same = [subject for one in held if one.how == grant.how for subject in one.subjects]
        new = tuple(one for one in grant.subjects if not any(accounts.covers(wide, one) for wide in same))
        left += [replace(grant, subjects=new)] if new else []
    return tuple(left)


def _work(agent: str) -> tuple[Grant, ...]:
    bucket, own = subjects.files_bucket(agent), subjects.states(agent)
    return (
        *_queue("its tasks", subjects.durable(agent)),
        *_queue(
            "its tasks whose subject names the publisher",
            subjects.durable_of_parties(agent),
            since=accounts.LAYOUT_WITH_QUEUE_APART,
        ),
        Grant("their states", (own, subjects.last_of(subjects.STATE_STREAM, own))),
        Grant("results go to the inbox of the sender", (subjects.RESULT_SUBJECTS,), attested=True),
        Grant("what it cannot accept", (subjects.dead(agent),)),
        Grant(
            "the same, from a publisher that its subject names",
            (subjects.dead(agent, "*"),),
            since=accounts.LAYOUT_WITH_QUEUE_APART,
        ),
        Grant(
            "large outputs: it can write its own, not read them",
            (subjects.all_chunks(bucket), subjects.all_metas(bucket)),
        ),
        input_grants.of_worker(agent),
        Grant("its entries in the registry", (f"$KV.{subjects.REGISTRY_BUCKET}.{agent}.>",)),
        Grant("which places of the agent are alive", places.reading(agent), since=accounts.LAYOUT_WITH_PLACES),
        Grant("signs of life", (subjects.heartbeat(agent),), "tell"),
        Grant("what its runs do", (progress.of_agent(agent),)),
        Grant("being told to cancel, to pause, or of a follow-up", (subjects.control(agent),), "listen"),
        Grant(
            "whether an operator has paused it",
            (subjects.last_of(agent_control.STREAM, agent_control.key(agent)),),
            since=accounts.LAYOUT_WITH_CONTROL,
        ),
    )


def _queue(purpose: str, durable: str, *, since: int = 1) -> tuple[Grant, ...]:
    """Taking tasks from one durable consumer."""
    tasks = subjects.TASKS_STREAM
    return (
        Grant(purpose, (subjects.pull(tasks, durable),), "pull", since=since),
        Grant(
            "how far they are, and their acknowledgement in both forms of the server",
            (
                subjects.api(f"CONSUMER.INFO.{tasks}.{durable}"),
                # With their numbers of tokens: `$JS.ACK.AGENT_TASKS.agent-code.>` would also be the longer form of an
                # acknowledgement by another agent, with names of streams where domain and account stand.
                f"$JS.ACK.{tasks}.{durable}.*.*.*.*.*",
                f"$JS.ACK.*.*.{tasks}.{durable}.*.*.*.*.>",
            ),
            since=since,
        ),
    )


def trusting_worker(agent: str) -> Party:
    """The workers of one agent in the sample with one account: the same, and its inbox."""
    return Party(agent, (*_work(agent), *_inbox(agent)), MAX_SUBSCRIPTIONS_OF_READERS)
