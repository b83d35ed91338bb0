"""Names on the bus: the only module that knows how subjects, keys and consumers are spelled.

Every function takes agent ids without the `agent-` prefix, as `agent_id()` returns them.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple, TypeGuard

from agentbus.errors import InvalidIdError

TASKS_STREAM: Final = "AGENT_TASKS"
RESULTS_STREAM: Final = "AGENT_RESULTS"
DEAD_STREAM: Final = "AGENT_DEAD"
STATE_BUCKET: Final = "AGENT_STATE"
REGISTRY_BUCKET: Final = "AGENT_REGISTRY"
STATE_STREAM: Final = f"KV_{STATE_BUCKET}"
REGISTRY_STREAM: Final = f"KV_{REGISTRY_BUCKET}"

COORDINATOR: Final = "main"
"""The coordinator that every bus has, an operator. It also owns the tasks of publishers that are not agentbus."""
_PREFIX: Final = "agent-"
_AGENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TASK_ID = re.compile(r"(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,128}(?<!\.)")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")


class TaskKey(NamedTuple):
    """Names one task of the bus. Two owners may use one id for the same agent.

    Attributes:
        owner: the id of the coordinator that published the task, from the subject of its message or of its ledger
            entry. There the server's permissions hold that it is true; no field of a message says it.
    """

    agent: str
    id: str
    owner: str = COORDINATOR

    @property
    def owner_field(self) -> dict[str, str]:
        """How a message names the owner: not at all where that is `main`, as before there were other ones."""
        return {} if self.owner == COORDINATOR else {"owner": self.owner}

    def __str__(self) -> str:
        whose = "" if self.owner == COORDINATOR else f" of {self.owner}"
        return f"{self.id}{whose} (agent {self.agent})"


@lru_cache(maxsize=1024)
def agent_id(text: str) -> str:
    """Return the agent id in `text`, which may carry one leading `agent-`.

    Raises:
        InvalidIdError: unless what is left is one subject token: letters, digits, `-` and `_`, at most 64,
            and without the prefix.
    """
    bare = text.removeprefix(_PREFIX)
    if not _AGENT_ID.fullmatch(bare):
        raise InvalidIdError(
            f"agent id {_quoted(text)} is not valid: use letters, digits, '-' and '_', 1 to 64 of them"
        )
    if bare.startswith(_PREFIX):
        raise InvalidIdError(f"agent id {_quoted(text)} is not valid: leave out the repeated prefix '{_PREFIX}'")
    return bare


def is_agent_id(text: object) -> TypeGuard[str]:
    """Whether `agent_id(text)` would succeed."""
    if not isinstance(text, str):
        return False
    try:
        agent_id(text)
    except InvalidIdError:
        return False
    return True


def configured_agent_id(text: str) -> str:
    """Return the id that a configuration gives to an agent: here the prefix itself is refused.

    Raises:
        InvalidIdError: if it is not a valid id, or carries the prefix that messages add.
    """
    bare = agent_id(text)
    if bare != text:
        raise InvalidIdError(f"agent id {_quoted(text)} must be written without '{_PREFIX}': the bus adds that prefix")
    return bare


def address(agent: str) -> str:
    """The form in which messages name an agent in `from`, `to` and `reply_to`: `code` -> `agent-code`."""
    return _PREFIX + agent


def task_id(text: str) -> str:
    """Return `text` if it is a task id.

    Raises:
        InvalidIdError: unless it is 1 to 128 letters, digits, `_`, `.` and `-`, with no leading, trailing or
            double dot.
    """
    if not _TASK_ID.fullmatch(text):
        raise InvalidIdError(
            f"task id {_quoted(text)} is not valid: use letters, digits, '_', '-' and single dots inside, 1 to 128"
        )
    return text


def is_task_id(text: object) -> TypeGuard[str]:
    """Whether `task_id(text)` would succeed."""
    return isinstance(text, str) and _TASK_ID.fullmatch(text) is not None


def stream_name(text: str) -> str:
    """Return `text` if a stream or a durable consumer may have it as its name.

    Raises:
        InvalidIdError: if it holds anything but letters, digits, `-` and `_`.
    """
    if not _NAME.fullmatch(text):
        raise InvalidIdError(f"name {_quoted(text)} is not valid: use letters, digits, '-' and '_'")
    return text


def _quoted(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return ascii(shown)


# -- subjects ---------------------------------------------------------------------------------------------------


def tasks(agent: str) -> str:
    """Where tasks for `agent` are published."""
    return f"agent.{agent}.tasks"


def tasks_of(agent: str, publisher: str, *, second: bool = False) -> str:
    """Where `publisher` publishes tasks for `agent`: only it has the right to, so the subject attests it.

    `main` publishes where versions before named coordinators take tasks; no other party may publish there. What those
    would misunderstand it publishes in the `second` form, as all others do.
    """
    return tasks(agent) if publisher == COORDINATOR and not second else f"{tasks(agent)}.{publisher}"


def publisher_of(subject: str, agent: str) -> str | None:
    """The publisher of a task for `agent`, or None if the subject is not one on which its tasks are published."""
    if subject == tasks(agent):
        return COORDINATOR
    publisher = subject.removeprefix(f"{tasks(agent)}.")
    return publisher if publisher != subject and _AGENT_ID.fullmatch(publisher) else None


def results(agent: str, writer: str | None = None) -> str:
    """The result inbox of `agent`, or where a bus that attests the writer of a result stores those of one writer."""
    return f"agent.{agent}.results" + (f".{writer}" if writer is not None else "")


def all_of(agent: str) -> str:
    """All subjects of `agent`: in a stream of one kind, such as dead letters, this covers both of its forms."""
    return f"agent.{agent}.>"


def inbox(agent: str) -> str:
    """The result inbox of `agent` as its readers filter it: also what bears the name of the party that made it."""
    return all_of(agent)


def dead(agent: str, publisher: str = COORDINATOR) -> str:
    """Where the workers of `agent` leave what they could not accept of a publisher."""
    return f"agent.{agent}.dead" if publisher == COORDINATOR else f"agent.{agent}.dead.{publisher}"


def heartbeat(agent: str) -> str:
    """Health events of the workers of `agent`."""
    return f"agent.{agent}.heartbeat"


def control(agent: str) -> str:
    """Core messages to the workers of `agent`: they make a cancellation fast, the ledger makes it sure."""
    return f"agent.{agent}.control"


def inbox_prefix(agent: str) -> str:
    """Where the answers to the requests of `agent` arrive: permissions bind them to it."""
    return f"_INBOX_{agent}"


TASK_SUBJECTS: Final = "agent.*.tasks"
RESULT_SUBJECTS: Final = "agent.*.results"
DEAD_SUBJECTS: Final = "agent.*.dead"
ATTESTED_TASK_SUBJECTS: Final = f"{TASK_SUBJECTS}.*"
ATTESTED_RESULT_SUBJECTS: Final = f"{RESULT_SUBJECTS}.*"
ATTESTED_DEAD_SUBJECTS: Final = f"{DEAD_SUBJECTS}.*"
STATE_SUBJECTS: Final = f"$KV.{STATE_BUCKET}.>"
REGISTRY_SUBJECTS: Final = f"$KV.{REGISTRY_BUCKET}.>"


def agent_of(subject: str, kind: str) -> str | None:
    """The agent in `agent.<id>.<kind>`, or None when `subject` is not of that form (the id without the prefix)."""
    parts = subject.split(".")
    if len(parts) != 3 or parts[0] != "agent" or parts[2] != kind:
        return None
    return _bare_id(parts[1])


def agent_and_party(subject: str, kind: str) -> tuple[str, str | None] | None:
    """The agent in `agent.<id>.<kind>`, or agent and party in `agent.<id>.<kind>.<party>`; None for other subjects."""
    if (agent := agent_of(subject, kind)) is not None:
        return agent, None
    first, _, party = subject.rpartition(".")
    agent, party = agent_of(first, kind), _bare_id(party)
    return None if agent is None or party is None else (agent, party)


def agent_of_filter(subject: str | None) -> str | None:
    """The agent whose tasks a consumer with this filter takes: those of the first form, or those of the second."""
    return agent_of((subject or "").removesuffix(".*"), "tasks")


def _bare_id(token: str) -> str | None:
    """Return an agent id as subjects carry it: without the prefix."""
    return token if is_agent_id(token) and agent_id(token) == token else None


# -- the ledger -------------------------------------------------------------------------------------------------


_OWNER: Final = "~"
"""Marks the owner in a ledger key. No id may hold it, so no key of a task without an owner looks like one with."""


def state(key: TaskKey) -> str:
    """The ledger key of a task, as the subject that its changes are published on."""
    return f"$KV.{STATE_BUCKET}.{key.agent}.{owned(key.owner)}{key.id}"


def states(agent: str = "*", owner: str | None = None) -> str:
    """The ledger keys of one agent or of all, of the tasks of one owner or of all.

    Those of `main` have no common form: for them, this covers the keys of all owners.
    """
    only = owned(owner) if owner is not None else ""
    return STATE_SUBJECTS if agent == "*" and not only else f"$KV.{STATE_BUCKET}.{agent}.{only}>"


def states_of_task(task: str, agent: str = "*", owner: str = COORDINATOR) -> str:
    """The ledger keys of one task id of one owner, of one agent or of all. `*` as the owner: all but `main`.

    A subject that matches need not be a key of this task: an id may hold dots. `parse_state` says what it is.
    """
    return f"$KV.{STATE_BUCKET}.{agent}.{'*.' if owner == '*' else owned(owner)}{task}"


def owned(owner: str) -> str:
    """The part of a key or name that holds the owner; empty for `main`."""
    return "" if owner == COORDINATOR else f"{_OWNER}{owner}."


@lru_cache(maxsize=256)  # of one change, all who follow the ledger in a process ask
def parse_state(subject: str) -> TaskKey | None:
    """The task of a ledger subject, or None when it is none."""
    prefix = f"$KV.{STATE_BUCKET}."
    agent, dot, rest = subject.removeprefix(prefix).partition(".")
    owner = COORDINATOR
    if rest.startswith(_OWNER):
        owner, dot, rest = rest.removeprefix(_OWNER).partition(".")
        if owner == COORDINATOR or not _AGENT_ID.fullmatch(owner):
            return None
    if subject.startswith(prefix) and dot and _AGENT_ID.fullmatch(agent) and _TASK_ID.fullmatch(rest):
        return TaskKey(agent, rest, owner)
    return None


def mcp_task(agent: str, task: str) -> str:
    """Where the coordinator `agent` keeps the record of an MCP task: in the ledger's bucket, and no ledger key.

    No task id holds `=`, so no task can have this key, and a look-up by `*.<task id>` never finds it.
    """
    return f"$KV.{STATE_BUCKET}.{agent}.={task}"


def mcp_tasks(agent: str) -> str:
    """All records of MCP tasks of a coordinator, and none of a task with an owner."""
    return f"$KV.{STATE_BUCKET}.{agent}.*"


def parse_mcp_task(subject: str) -> tuple[str, str] | None:
    """Coordinator and id of the record of an MCP task, or None when the subject is none."""
    if ".=" not in subject:  # as most are not, of the many that a list looks at
        return None
    prefix = f"$KV.{STATE_BUCKET}."
    agent, separator, task = subject.removeprefix(prefix).partition(".=")
    if subject.startswith(prefix) and separator and _AGENT_ID.fullmatch(agent) and _NAME.fullmatch(task):
        return agent, task
    return None


def presence(agent: str, instance: str) -> str:
    """The registry key of one worker process, as a subject."""
    return f"$KV.{REGISTRY_BUCKET}.{agent}.{instance}"


def agent_of_presence(subject: str) -> str:
    """The agent that a registry key names; empty where it is none."""
    tokens = subject.split(".", 3)
    return tokens[2] if len(tokens) > 3 else ""


def presences(agent: str) -> str:
    """All registry keys of one agent."""
    return f"$KV.{REGISTRY_BUCKET}.{agent}.*"


# -- consumers and files ----------------------------------------------------------------------------------------


def durable(agent: str) -> str:
    """The durable consumer of the tasks of `main`, which all workers of `agent` share."""
    return _PREFIX + agent


def durable_of_parties(agent: str) -> str:
    """The durable consumer of the tasks of `agent` whose subject names their publisher: the second form."""
    return f"tasks-{agent}"


def files_stream(agent: str) -> str:
    """The stream behind the object store of one agent."""
    return f"OBJ_{files_bucket(agent)}"


def file_chunks(bucket: str, nuid: str, owner: str = COORDINATOR) -> str:
    """Where the chunks of one object lie, which belongs to a task of `owner`."""
    return f"$O.{bucket}.C.{owned(owner)}{nuid}"


def file_meta(bucket: str, encoded_name: str, owner: str = COORDINATOR) -> str:
    """Where the description of one object lies; its name is written in URL-safe base64."""
    return f"$O.{bucket}.M.{owned(owner)}{encoded_name}"


def all_chunks(bucket: str, owner: str | None = None) -> str:
    """Where the chunks of all objects lie, or of those that belong to tasks of one owner."""
    return f"$O.{bucket}.C.{owned(owner) if owner is not None else ''}>"


def all_metas(bucket: str, owner: str | None = None) -> str:
    """The same for the descriptions of objects."""
    return f"$O.{bucket}.M.{owned(owner) if owner is not None else ''}>"


def files_bucket(agent: str) -> str:
    """The object store of one agent; object subjects carry no agent, so each agent has a bucket of its own."""
    return f"AGENT_FILES_{agent}"


# -- the JetStream API ------------------------------------------------------------------------------------------


def api(verb: str) -> str:
    """The subject of a JetStream API request such as `STREAM.INFO.AGENT_TASKS`."""
    return f"$JS.API.{verb}"


def pull(stream: str, consumer: str) -> str:
    """Where a pull consumer is asked for its next message."""
    return api(f"CONSUMER.MSG.NEXT.{stream}.{consumer}")


def create_consumer(stream: str, name: str, filter_subject: str = "") -> str:
    """Where a consumer with one filter is made: the filter stands in the subject, so permissions can bind it.

    Without one here, the request may name any filter, several, or none.
    """
    return api(f"CONSUMER.CREATE.{stream}.{name}" + (f".{filter_subject}" if filter_subject else ""))


def direct_get(stream: str) -> str:
    """Where a message is asked for by its sequence, or the next one of a subject (direct get)."""
    return api(f"DIRECT.GET.{stream}")


def last_of(stream: str, subject: str) -> str:
    """Where the last message of `subject` is asked for (direct get)."""
    return api(f"DIRECT.GET.{stream}.{subject}")
