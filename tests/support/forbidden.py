"""Lists what parties of a bus may not do: a description, and the subject that it needs."""

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError, PermissionDeniedError

_ACK = "1.1.1.1700000000000000000.0"


def for_agent(me: str, other: str) -> dict[str, str]:
    """Return what the workers of `me` may not do: a description, and the subject that it needs."""
    ack, own_ack = f"$JS.ACK.AGENT_TASKS.agent-{other}", f"$JS.ACK.AGENT_TASKS.agent-{me}"
    return {
        "pull another agent's tasks": f"$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-{other}",
        "look at another agent's consumer": f"$JS.API.CONSUMER.INFO.AGENT_TASKS.agent-{other}",
        "ack another agent's task": f"{ack}.{_ACK}",
        "ack another agent's task, in the newer form": f"$JS.ACK._.hash.AGENT_TASKS.agent-{other}.{_ACK}",
        "ack it in the newer form, posing as its own": f"{own_ack}.AGENT_TASKS.agent-{other}.{_ACK}",
        "ack it in the older form, posing as its own": f"{ack}.AGENT_TASKS.agent-{me}.1.1.1",
        "give a task to another agent": f"agent.{other}.tasks",
        "give a task to itself": f"agent.{me}.tasks",
        "write another agent's ledger": f"$KV.AGENT_STATE.{other}.task-1",
        "read another agent's ledger": f"$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.{other}.task-1",
        "watch its own ledger": f"$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.f.$KV.AGENT_STATE.{me}.>",
        "write another agent's dead letters": f"agent.{other}.dead",
        "read dead letters": f"$JS.API.CONSUMER.CREATE.AGENT_DEAD.f.agent.{me}.dead",
        "register as another agent": f"$KV.AGENT_REGISTRY.{other}.host-1",
        "send another agent's heartbeat": f"agent.{other}.heartbeat",
        "send another agent's progress": f"agent.{other}.progress.task-1",
        "control another agent's workers": f"agent.{other}.control",
        "control its own workers": f"agent.{me}.control",
        "pause another agent": f"$KV.AGENT_CONTROL.{other}",
        "pause its own agent": f"$KV.AGENT_CONTROL.{me}",
        "tell the audit that it paused an agent": "audit.~.said.pause",
        "read whether another agent is paused": f"$JS.API.DIRECT.GET.KV_AGENT_CONTROL.$KV.AGENT_CONTROL.{other}",
        "follow which agents are paused": "$JS.API.CONSUMER.CREATE.KV_AGENT_CONTROL.f.$KV.AGENT_CONTROL.>",
        "write another agent's files": f"$O.AGENT_FILES_{other}.C.x",
        "replace another agent's file": f"$O.AGENT_FILES_{other}.M.x",
        "read files": f"$JS.API.DIRECT.GET.OBJ_AGENT_FILES_{me}.$O.AGENT_FILES_{me}.M.x",
        "read the coordinator's inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.main.results",
        "read another agent's inbox": f"$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.{other}.results",
        "read all inboxes": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.*.results",
        "read an inbox without a filter": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f",
        "read the last of the coordinator's inbox": "$JS.API.DIRECT.GET.AGENT_RESULTS.agent.main.results",
        "read any result by its sequence": "$JS.API.DIRECT.GET.AGENT_RESULTS",
        "make a consumer of its tasks": f"$JS.API.CONSUMER.CREATE.AGENT_TASKS.mine.agent.{me}.tasks",
        "make a durable": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_TASKS.mine",
        "read any task by its sequence": "$JS.API.STREAM.MSG.GET.AGENT_TASKS",
        "read any task by its sequence, in the newer way": "$JS.API.DIRECT.GET.AGENT_TASKS",
        "list the consumers of the tasks": "$JS.API.CONSUMER.LIST.AGENT_TASKS",
        "delete another agent's consumer": f"$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-{other}",
        "delete its own consumer": f"$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-{me}",
        **_administration(),
    }


def for_main() -> dict[str, str]:
    return {
        "pull an agent's tasks": "$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-code",
        "ack for an agent": f"$JS.ACK.AGENT_TASKS.agent-code.{_ACK}",
        "ack for an agent, in the newer form": f"$JS.ACK._.hash.AGENT_TASKS.agent-code.{_ACK}",
        "put a result into an agent's inbox": "agent.code.results",
        "write an agent's dead letters": "agent.code.dead",
        "read dead letters": "$JS.API.CONSUMER.CREATE.AGENT_DEAD.f.agent.code.dead",
        "register as an agent": "$KV.AGENT_REGISTRY.code.host-1",
        "send an agent's heartbeat": "agent.code.heartbeat",
        "write an agent's files": "$O.AGENT_FILES_code.C.x",
        "replace an agent's file": "$O.AGENT_FILES_code.M.x",
        "read any chunk by its sequence": "$JS.API.DIRECT.GET.OBJ_AGENT_FILES_code",
        "read an agent's inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.code.results",
        "read all inboxes": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.*.results",
        "read an inbox without a filter": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f",
        "read any result by its sequence": "$JS.API.DIRECT.GET.AGENT_RESULTS",
        "read the last of an agent's inbox": "$JS.API.DIRECT.GET.AGENT_RESULTS.agent.code.results",
        "make a consumer of an agent's tasks": "$JS.API.CONSUMER.CREATE.AGENT_TASKS.mine.agent.code.tasks",
        "make a durable": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_TASKS.mine",
        "make a durable in the old way": "$JS.API.CONSUMER.DURABLE.CREATE.AGENT_RESULTS.mine",
        "delete an agent's consumer": "$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-code",
        **_administration(),
    }


def for_member(me: str, agent: str, other_agent: str, other: str) -> dict[str, str]:
    """Return what a member of `agent` alone may not do; `other` is another member, `other_agent` none of its agents."""
    state, results, file = "KV_AGENT_STATE", "AGENT_RESULTS", f"OBJ_AGENT_FILES_{agent}"
    entries = {
        "of another member": f"$KV.AGENT_STATE.{agent}.~{other}.job",
        "of main": f"$KV.AGENT_STATE.{agent}.job",
        "of another member, for another agent": f"$KV.AGENT_STATE.{other_agent}.~{other}.job",
        "of another member's MCP task": f"$KV.AGENT_STATE.{other}.=record",
        "of main's MCP task": "$KV.AGENT_STATE.main.=record",
        "whose owner only begins as its own": f"$KV.AGENT_STATE.{agent}.~{me}2.job",
        "without a task": f"$KV.AGENT_STATE.{agent}.~{me}",
    }
    filters = {
        "of all": "$KV.AGENT_STATE.>",
        "of one agent": f"$KV.AGENT_STATE.{agent}.>",
        "of all owners": "$KV.AGENT_STATE.*.*.>",
        "of all owners of one task": "$KV.AGENT_STATE.*.*.job",
        "of all of main": "$KV.AGENT_STATE.*.*",
        "of another member": f"$KV.AGENT_STATE.*.~{other}.>",
        "of another member's MCP tasks": f"$KV.AGENT_STATE.{other}.*",
    }
    inboxes = {f"agent.{other}.results", f"agent.{other}.>", "agent.main.>", "agent.*.results", "agent.>", ">"}
    return {
        **{f"write an entry {what}": key for what, key in entries.items()},
        **{f"read an entry {what}": f"$JS.API.DIRECT.GET.{state}.{key}" for what, key in entries.items()},
        **{f"read entries {what}": f"$JS.API.DIRECT.GET.{state}.{keys}" for what, keys in filters.items()},
        **{f"follow entries {what}": f"$JS.API.CONSUMER.CREATE.{state}.f.{keys}" for what, keys in filters.items()},
        "write an entry for an agent that it has not": f"$KV.AGENT_STATE.{other_agent}.~{me}.job",
        "write an entry of all agents": f"$KV.AGENT_STATE.*.~{me}.job",
        "read any entry by its sequence": f"$JS.API.DIRECT.GET.{state}",
        "follow all entries without a filter": f"$JS.API.CONSUMER.CREATE.{state}.f",
        "follow all entries in the old way": f"$JS.API.CONSUMER.CREATE.{state}",
        "make a durable of entries": f"$JS.API.CONSUMER.DURABLE.CREATE.{state}.f",
        "list who follows": f"$JS.API.CONSUMER.NAMES.{state}",
        "look at who follows": f"$JS.API.CONSUMER.INFO.{state}.f",
        "delete who follows": f"$JS.API.CONSUMER.DELETE.{state}.f",
        "give a task as main": f"agent.{agent}.tasks",
        "give a task as main, by name": f"agent.{agent}.tasks.main",
        "give a task as another member": f"agent.{agent}.tasks.{other}",
        "give a task under a longer name": f"agent.{agent}.tasks.{me}.{other}",
        "give a task to an agent that it has not": f"agent.{other_agent}.tasks.{me}",
        "give a task to the subject of all agents": f"agent.*.tasks.{me}",
        "cancel fast what an agent runs that it has not": f"agent.{other_agent}.control",
        "put a result into another inbox": f"agent.{other}.results",
        "put a result into main's inbox": "agent.main.results",
        "put a result into another inbox, as an agent": f"agent.{other}.results.{agent}",
        "put a result into its own inbox, as an agent": f"agent.{me}.results.{agent}",
        **{f"read the inbox {name}": f"$JS.API.CONSUMER.CREATE.{results}.f.{name}" for name in inboxes},
        "read an inbox without a filter": f"$JS.API.CONSUMER.CREATE.{results}.f",
        "read the last of another inbox": f"$JS.API.DIRECT.GET.{results}.agent.{other}.results",
        "read any result by its sequence": f"$JS.API.DIRECT.GET.{results}",
        "find another member's output": f"$JS.API.DIRECT.GET.{file}.$O.AGENT_FILES_{agent}.M.~{other}.x",
        "find an output of main": f"$JS.API.DIRECT.GET.{file}.$O.AGENT_FILES_{agent}.M.x",
        "read another member's output": f"$JS.API.CONSUMER.CREATE.{file}.f.$O.AGENT_FILES_{agent}.C.~{other}.x",
        "read an output of main": f"$JS.API.CONSUMER.CREATE.{file}.f.$O.AGENT_FILES_{agent}.C.x",
        "read all outputs": f"$JS.API.CONSUMER.CREATE.{file}.f.$O.AGENT_FILES_{agent}.C.>",
        "read any chunk by its sequence": f"$JS.API.DIRECT.GET.{file}",
        "write an output": f"$O.AGENT_FILES_{agent}.C.~{me}.x",
        "replace an output": f"$O.AGENT_FILES_{agent}.M.~{me}.x",
        "pull an agent's tasks": f"$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-{agent}",
        "pull an agent's tasks of named coordinators": f"$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.tasks-{agent}",
        "ack for an agent": f"$JS.ACK.AGENT_TASKS.agent-{agent}.{_ACK}",
        "ack for an agent, of named coordinators": f"$JS.ACK.AGENT_TASKS.tasks-{agent}.{_ACK}",
        "read any task by its sequence": "$JS.API.STREAM.MSG.GET.AGENT_TASKS",
        "read any task by its sequence, in the newer way": "$JS.API.DIRECT.GET.AGENT_TASKS",
        "read the last task of an agent": f"$JS.API.DIRECT.GET.AGENT_TASKS.agent.{agent}.tasks",
        "make a consumer of tasks": f"$JS.API.CONSUMER.CREATE.AGENT_TASKS.f.agent.{agent}.tasks.{me}",
        "write dead letters": f"agent.{agent}.dead",
        "read dead letters": f"$JS.API.CONSUMER.CREATE.AGENT_DEAD.f.agent.{agent}.dead",
        "pause an agent": f"$KV.AGENT_CONTROL.{agent}",
        "pause under its own name": f"$KV.AGENT_CONTROL.{me}",
        "tell the audit that it paused an agent": "audit.~.said.pause",
        "register as an agent": f"$KV.AGENT_REGISTRY.{agent}.host-1",
        "register under its own name": f"$KV.AGENT_REGISTRY.{me}.host-1",
        "send an agent's heartbeat": f"agent.{agent}.heartbeat",
        **_administration(),
    }


def for_admin() -> dict[str, str]:
    return {
        "put a result into an inbox": "agent.main.results",
        "write the ledger": "$KV.AGENT_STATE.code.task-1",
        "register as an agent": "$KV.AGENT_REGISTRY.code.host-1",
        "pause an agent": "$KV.AGENT_CONTROL.code",
        "write a dead letter": "agent.code.dead",
        "write an agent's files": "$O.AGENT_FILES_code.C.x",
        "ack for an agent": f"$JS.ACK.AGENT_TASKS.agent-code.{_ACK}",
        "control an agent's workers": "agent.code.control",
        "look into the server": "$SYS.REQ.SERVER.PING",
    }


def _administration() -> dict[str, str]:
    return {
        "create a stream": "$JS.API.STREAM.CREATE.MINE",
        "update a stream": "$JS.API.STREAM.UPDATE.AGENT_TASKS",
        "delete a stream": "$JS.API.STREAM.DELETE.AGENT_RESULTS",
        "purge the tasks": "$JS.API.STREAM.PURGE.AGENT_TASKS",
        "purge the results": "$JS.API.STREAM.PURGE.AGENT_RESULTS",
        "purge the ledger": "$JS.API.STREAM.PURGE.KV_AGENT_STATE",
        "read any result by its sequence, in the old way": "$JS.API.STREAM.MSG.GET.AGENT_RESULTS",
        "read any ledger entry by its sequence": "$JS.API.STREAM.MSG.GET.KV_AGENT_STATE",
        "delete a task": "$JS.API.STREAM.MSG.DELETE.AGENT_TASKS",
        "delete a result": "$JS.API.STREAM.MSG.DELETE.AGENT_RESULTS",
        "list streams": "$JS.API.STREAM.NAMES",
        "list the consumers of results": "$JS.API.CONSUMER.LIST.AGENT_RESULTS",
        "list the names of the consumers of results": "$JS.API.CONSUMER.NAMES.AGENT_RESULTS",
        "look at the account": "$JS.API.INFO",
        "put a message into no stream at all": "anything.else",
    }


async def denied(bus: Bus, subject: str) -> bool:
    """Return whether the server refuses a message of this party to `subject`."""
    try:
        await bus.request(subject, b"{}", timeout_s=2)
    except PermissionDeniedError:
        return True
    except BusUnavailableError:
        return False
    return False
