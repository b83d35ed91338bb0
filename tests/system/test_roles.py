"""Each role can do what it is for, and nothing that another role or another owner has, whatever a client tries."""

from contextlib import suppress
from typing import Any

import pytest

from agentbus.admin.doctor.permission_probe import example_subject, may_publish
from agentbus.bus.jetstream import connect
from agentbus.errors import ApiError
from agentbus.protocol import accounts, permissions, subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.parties.party import Party
from support.forbidden import denied, for_member
from support.harness import eventually
from support.installation import OwnBus
from support.messages_on_bus import contents

pytestmark = pytest.mark.posix("not tried on Windows")

AGENTS = ("code", "doc", "lead")
PARTIES = {
    party.id: party
    for party in (
        permissions.administrator(),
        permissions.coordinator("main", "operator", AGENTS),
        permissions.coordinator("carol", "operator", AGENTS),
        permissions.coordinator("alice", "member", ["code"], others=AGENTS),
        permissions.coordinator("dave", "member", AGENTS),
        permissions.coordinator("bob", "viewer", AGENTS),
        permissions.worker("code"),
        permissions.worker("lead", ["doc"], others=AGENTS),
    )
}
each_party = pytest.mark.parametrize("party", PARTIES.values(), ids=lambda party: party.id)


# -- what each may, and may not ---------------------------------------------------------------------------------


@each_party
async def test_a_party_may_use_all_that_it_was_granted(team: OwnBus, party: Party) -> None:
    async with connect(team.settings(party.id)) as bus:
        for subject in party.of("listen"):
            await bus.subscribe(subject, lambda _: None)
        for subject in (*party.of("send"), *party.of("pull"), *party.of("tell")):
            # Only servers with domains use this form of an acknowledgement, and none answers it.
            answered = subject in party.of("send") and not subject.startswith("$JS.ACK.*")
            assert await may_publish(bus, example_of(subject), answered=answered), subject
    assert team.violations() == []


@each_party
async def test_a_party_is_refused_what_only_others_were_granted(team: OwnBus, party: Party) -> None:
    granted = dict.fromkeys(example_of(subject) for other in PARTIES.values() for subject in other.publish)
    beyond = [subject for subject in granted if not any(accounts.covers(wide, subject) for wide in party.publish)]
    assert len(beyond) > 20
    before = await contents(team)
    async with connect(team.settings(party.id)) as bus:
        done = [subject for subject in beyond if not await denied(bus, subject)]
    assert done == []
    assert await contents(team) == before


def example_of(subject: str) -> str:
    """A subject that a grant covers, of an agent that there is."""
    return example_subject(subject.replace("agent.*.", "agent.code."))


@each_party
async def test_a_party_hears_nothing_that_only_others_may(team: OwnBus, party: Party) -> None:
    beyond = [
        *(f"_INBOX_{other}.>" for other in PARTIES if other != party.id),
        *(f"agent.{agent}.control" for agent in ("code", "doc")),
        *("agent.*.tasks", "agent.*.tasks.*", "agent.*.results", "$KV.AGENT_STATE.>", "$O.>", "$JS.ACK.>", ">"),
    ]
    beyond = [subject for subject in beyond if subject not in party.subscribe]
    async with connect(team.settings(party.id)) as bus:
        for subject in beyond:
            await bus.subscribe(subject, lambda _: None)
        await eventually(lambda: len(team.violations()) >= len(beyond), "the server has refused each")
    assert len(team.violations()) == len(beyond)


async def test_a_member_is_refused_what_is_of_others(team: OwnBus) -> None:
    table = for_member("alice", "code", "doc", "dave")
    before = await contents(team)
    async with connect(team.settings("alice")) as alice:
        done = [what for what, subject in table.items() if not await denied(alice, subject)]
    assert done == []
    assert len(team.violations()) == len(table)
    assert await contents(team) == before


async def test_an_agent_that_may_give_tasks_is_a_member_and_no_more(team: OwnBus) -> None:
    own = permissions.worker("lead").publish
    table = {
        what: subject
        for what, subject in for_member("lead", "doc", "code", "alice").items()
        if not any(accounts.covers(wide, subject) for wide in own)
    }
    assert len(table) > 60
    async with connect(team.settings("lead")) as lead:
        done = [what for what, subject in table.items() if not await denied(lead, subject)]
    assert done == []


@pytest.mark.parametrize("name", ["code", "lead"])
async def test_a_worker_reaches_no_state_of_another_agent_whoever_owns_it(team: OwnBus, name: str) -> None:
    keys = [f"$KV.AGENT_STATE.doc.{task}" for task in ("~alice.job", "~main.job", "~code.job", "job", "~alice.=x")]
    keys += ["$KV.AGENT_STATE.alice.=record", "$KV.AGENT_STATE.*.~alice.job"]
    async with connect(team.settings(name)) as worker:
        for key in keys:
            assert await denied(worker, key), key
            assert await denied(worker, subjects.last_of(subjects.STATE_STREAM, key)), key


# -- what a request says beside its subject ---------------------------------------------------------------------

STATE = subjects.STATE_STREAM
LEDGER = ledger_of("code")
MINE = "$KV.AGENT_STATE.code.~alice.>"
VICTIM = "$KV.AGENT_STATE.code.~dave.job"
OWN = "$KV.AGENT_STATE.code.~alice.job"


async def with_entries(team: OwnBus) -> int:
    """Write an entry of alice, of dave and of main; returns the sequence of dave's."""
    for name, key in (("alice", OWN), ("main", "$KV.AGENT_STATE.code.job")):
        async with connect(team.settings(name)) as bus:
            await bus.store(key, encode({"owner": name}))
    async with connect(team.settings("dave")) as dave:
        return (await dave.store(VICTIM, b"secret")).seq


WIDER: list[dict[str, Any]] = [
    {"filter_subject": VICTIM},
    {"filter_subject": "$KV.AGENT_STATE.>"},
    {"filter_subjects": [MINE, VICTIM]},
    {"filter_subjects": [VICTIM]},
    {"filter_subjects": [MINE, "$KV.AGENT_STATE.code.~dave.>"]},
    {"filter_subject": MINE, "filter_subjects": [VICTIM]},
    {},
    {"filter_subject": "", "filter_subjects": []},
]


@pytest.mark.parametrize("action", [None, "create", "update"])
async def test_the_body_of_a_request_widens_no_filter(team: OwnBus, action: str | None) -> None:
    await with_entries(team)
    async with connect(team.settings("alice")) as alice, connect(team.settings("admin")) as admin:
        verb = f"CONSUMER.CREATE.{LEDGER}.f.{MINE}"
        honest = {"name": "f", "ack_policy": "none", "filter_subject": MINE}
        if action == "update":
            await alice.api(verb, {"stream_name": LEDGER, "config": honest})
        for config in WIDER:
            body = {"stream_name": LEDGER, "config": {"name": "f", "ack_policy": "none", **config}}
            with pytest.raises(ApiError):
                await alice.api(verb, {**body, "action": action} if action else body)
            assert [one.filter_subject for one in await admin.consumers(LEDGER)] == (
                [honest["filter_subject"]] if action == "update" else []
            ), config


@pytest.mark.parametrize("stream", ["AGENT_RESULTS", "KV_AGENT_REGISTRY", "OBJ_AGENT_FILES_code"])
async def test_the_body_of_a_request_names_no_other_stream(team: OwnBus, stream: str) -> None:
    verb = f"CONSUMER.CREATE.{LEDGER}.f.{MINE}"
    config = {"name": "f", "ack_policy": "none", "filter_subject": MINE}
    async with connect(team.settings("alice")) as alice:
        with pytest.raises(ApiError):
            await alice.api(verb, {"stream_name": stream, "config": config})


async def test_the_body_of_a_direct_get_reads_no_entry_of_another_owner(team: OwnBus) -> None:
    seq = await with_entries(team)
    heard: list[bytes] = []
    bodies: list[dict[str, Any]] = [
        {"seq": seq},
        {"last_by_subj": VICTIM},
        {"next_by_subj": VICTIM, "seq": 1},
        {"next_by_subj": "$KV.AGENT_STATE.>", "seq": 1},
        {"multi_last": [VICTIM]},
        {"multi_last": ["$KV.AGENT_STATE.>"], "batch": 10},
        {"seq": 1, "batch": 10},
        {"seq": 1, "batch": 10, "next_by_subj": "$KV.AGENT_STATE.>"},
    ]
    async with connect(team.settings("alice")) as alice:
        inbox = alice.new_inbox()
        await alice.subscribe(inbox, lambda message: heard.append(message.data))
        for keys in (MINE, OWN):
            for body in (*map(encode, bodies), b"{}", b""):
                await alice.publish(subjects.last_of(STATE, keys), body, reply=inbox)
        # The server answers in order: with this answer, all others have come.
        assert await alice.last_message(STATE, OWN)
    assert set(heard) <= {b"", encode({"owner": "alice"})}
    assert encode({"owner": "alice"}) in heard
    assert team.violations() == []


async def test_a_member_sees_the_names_of_the_entries_of_its_agents_and_none_of_them(team: OwnBus) -> None:
    await with_entries(team)
    async with connect(team.settings("alice")) as alice:
        info = await alice.stream_info(LEDGER, subjects_filter=">")
        assert set(info.state.subjects or {}) == {OWN, VICTIM, "$KV.AGENT_STATE.code.job"}
        assert (info.state.messages, info.max_bytes > 0) == (3, True)
        assert await denied(alice, subjects.last_of(STATE, VICTIM))
    async with connect(team.settings("lead")) as lead:
        assert await denied(lead, f"$JS.API.STREAM.INFO.{LEDGER}")


# -- what the server can be made to send ------------------------------------------------------------------------

TARGETS = (
    VICTIM,
    "$KV.AGENT_STATE.code.job",
    "$KV.AGENT_STATE.dave.=record",
    "$KV.AGENT_REGISTRY.code.host-1",
    "agent.code.tasks",
    "agent.code.tasks.dave",
    "agent.doc.tasks.alice",
    "agent.dave.results",
    "agent.dave.results.code",
    "agent.main.results.code",
    "agent.code.dead",
    "$O.AGENT_FILES_code.M.~dave.x",
    "$O.AGENT_FILES_code.C.~dave.x",
    "$JS.API.STREAM.PURGE.KV_AGENT_STATE_code",
    "$JS.API.STREAM.DELETE.AGENT_DEAD",
    "$JS.API.STREAM.MSG.DELETE.AGENT_RESULTS",
)


async def test_no_push_consumer_of_a_member_writes_for_it(team: OwnBus) -> None:
    # The body of a request may name any subject of the account of the streams as the one to deliver to.
    await with_entries(team)
    before = await contents(team)
    async with connect(team.settings("alice")) as alice:
        await alice.store(OWN, encode({"seq": 1}))
        await alice.store("agent.alice.results", encode({"seq": 1}))
        own = {key: value for key, value in (await contents(team)).items() if value != before.get(key)}
        for number, target in enumerate(TARGETS):
            for stream, keys in ((LEDGER, OWN), ("AGENT_RESULTS", "agent.alice.>")):
                config = {"name": f"p{number}", "filter_subject": keys, "deliver_subject": target, "ack_policy": "none"}
                verb = f"CONSUMER.CREATE.{stream}.p{number}.{keys}"
                with suppress(ApiError):
                    await alice.api(verb, {"stream_name": stream, "config": config})
        # This one is bound, and so delivers: once it has, all others had their time.
        bound = {"name": "bound", "filter_subject": OWN, "ack_policy": "none", "deliver_group": "_sys_"}
        bound |= {"deliver_subject": subjects.direct_get(subjects.REGISTRY_STREAM)}
        await alice.api(f"CONSUMER.CREATE.{LEDGER}.bound.{OWN}", {"stream_name": LEDGER, "config": bound})
    async with connect(team.settings("admin")) as admin:

        async def delivering() -> list[str]:
            pushing = [one for stream in (LEDGER, "AGENT_RESULTS") for one in await admin.consumers(stream)]
            assert len(pushing) > len(TARGETS)
            return [one.name for one in pushing if one.num_pending == 0]

        assert await eventually(delivering, "the one that is bound delivers") == ["bound"]
    after = await contents(team)
    assert {key: value for key, value in after.items() if key not in own and isinstance(value, tuple)} == {
        key: value for key, value in before.items() if key not in own and isinstance(value, tuple)
    }


async def test_no_reply_subject_gives_a_member_more_rights(team: OwnBus) -> None:
    await with_entries(team)
    async with connect(team.settings("alice")) as alice:
        before = await contents(team)
        for target in TARGETS:
            await alice.publish(subjects.last_of(STATE, OWN), reply=target)
            await alice.publish(subjects.api("STREAM.INFO.AGENT_TASKS"), reply=target)
            await alice.publish(subjects.api("CONSUMER.LIST.AGENT_TASKS"), reply=target)
            await alice.publish(subjects.pull(LEDGER, "f"), encode({"batch": 1, "no_wait": True}), reply=target)
            await alice.last_message(STATE, OWN)
        assert await contents(team) == before
