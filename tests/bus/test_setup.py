"""Set-up makes what is missing, reports what is there, and changes nothing unasked."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import replicas
from agentbus.bus.setup import ensure_consumer, set_up
from agentbus.bus.topology import ReplicaPlan, wanted_consumers, wanted_files, wanted_streams
from agentbus.bus.wanted.setup_plan import Found, plan
from agentbus.errors import ApiError, ConsumerLimitError
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.provision.nats_server import NatsServer, run_server
from support.altered_link import altered_link, at_first, refused
from support.harness import run_cli
from support.server_version import without_its_warning


async def outcomes(url: str, *agents: str, **options: object) -> dict[str, tuple[str, tuple[str, ...]]]:
    async with connect(url) as bus:
        findings = await set_up(bus.bus, agents, **options)  # pyright: ignore[reportArgumentType]
    return {item.name: (item.outcome, item.differences) for item in findings}


async def test_everything_is_made_once_and_found_afterwards(server: NatsServer):
    first = await outcomes(server.url, "code", "doc")
    assert {outcome for outcome, _ in first.values()} == {"made"}
    assert all(differences == () for _, differences in first.values()), first
    assert list(first) == [
        "AGENT_TASKS",
        "AGENT_RESULTS",
        "AGENT_DEAD",
        "AGENT_AUDIT",
        "AGENT_AUDIT_SAID",
        "KV_AGENT_STATE",
        "KV_AGENT_REGISTRY",
        "KV_AGENT_CONTROL",
        "OBJ_AGENT_FILES_code",
        "OBJ_AGENT_FILES_doc",
        "agent-code",
        "tasks-code",
        "agent-doc",
        "tasks-doc",
        "AGENT_PROGRESS_code",
        "AGENT_PROGRESS_doc",
        "OBJ_AGENT_INPUTS_code",
        "OBJ_AGENT_INPUTS_doc",
    ]
    again = await outcomes(server.url, "code", "doc")
    assert {outcome for outcome, _ in again.values()} == {"found"}


async def test_a_stream_that_is_different_is_reported_and_left_alone(server: NatsServer):
    async with connect(server.url) as bus:
        both = ["agent.*.tasks", "agent.*.tasks.*"]
        old = {"name": "AGENT_TASKS", "subjects": both, "max_age": 3600 * 10**9, "description": "mine"}
        await bus.bus.api("STREAM.CREATE.AGENT_TASKS", old)
        before = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
        found = await outcomes(server.url)
        after = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    outcome, differences = found["AGENT_TASKS"]
    assert outcome == "different"
    assert "max_age is 3600 s, wanted 604800 s" in differences
    assert "retention is limits, wanted workqueue" in differences
    assert after == {**before, "republish": audit.REPUBLISH}  # which changes nothing for those who use it


async def test_a_stream_of_an_earlier_version_gets_the_subjects_and_the_audit_that_it_lacks_and_nothing_else(
    server: NatsServer,
):
    async with connect(server.url) as bus:
        old = {"name": "AGENT_TASKS", "subjects": ["agent.*.tasks"], "retention": "workqueue", "max_age": 3600 * 10**9}
        await bus.bus.api("STREAM.CREATE.AGENT_TASKS", old)
        before = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
        found = await outcomes(server.url, "code")
        after = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    assert found["AGENT_TASKS"][0] == "different"
    assert not [text for text in found["AGENT_TASKS"][1] if text.startswith("subjects")]
    assert after == {**before, "subjects": ["agent.*.tasks", "agent.*.tasks.*"], "republish": audit.REPUBLISH}
    assert (found["agent-code"][0], found["tasks-code"][0]) == ("made", "made")


async def test_update_applies_what_can_be_applied_and_keeps_what_it_does_not_know(server: NatsServer):
    async with connect(server.url) as bus:
        old = {
            "name": "AGENT_RESULTS",
            "subjects": ["agent.*.results"],
            "max_age": 10**9 * 86400 * 30,
            "duplicate_window": 60 * 10**9,
            "max_consumers": 100_000,  # servers 2.10 cannot change this one
            "description": "mine",
            "metadata": {"owner": "me"},
        }
        await bus.bus.api("STREAM.CREATE.AGENT_RESULTS", old)
        found = await outcomes(server.url, update=True)
        config = (await bus.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    assert found["AGENT_RESULTS"][0] == "updated"
    assert config["discard"] == "new"
    assert config["description"] == "mine"
    assert config["metadata"]["owner"] == "me"
    assert (await outcomes(server.url))["AGENT_RESULTS"][0] == "found"


async def test_what_can_be_changed_is_changed_beside_what_cannot(server: NatsServer):
    async with connect(server.url) as bus:
        old = {"name": "AGENT_TASKS", "subjects": ["agent.*.tasks"], "retention": "limits", "max_age": 10**9 * 3600}
        await bus.bus.api("STREAM.CREATE.AGENT_TASKS", old)
        outcome, differences = (await outcomes(server.url, update=True))["AGENT_TASKS"]
        config = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    assert outcome == "different"
    assert differences[0] == "retention is limits, wanted workqueue"
    assert [text for text in differences[1:] if not text.startswith("cannot be changed: ")] == []
    assert (config["subjects"], config["max_age"]) == (["agent.*.tasks", "agent.*.tasks.*"], 10**9 * 86400 * 7)


async def test_a_consumer_that_is_different_is_reported_and_updated_on_request(server: NatsServer):
    await outcomes(server.url, "code")
    async with connect(server.url) as bus:
        info = await bus.bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code")
        body = {"stream_name": "AGENT_TASKS", "config": {**info["config"], "ack_wait": 5 * 10**9}}
        await bus.bus.api("CONSUMER.CREATE.AGENT_TASKS.agent-code.agent.code.tasks", body)
    assert (await outcomes(server.url, "code"))["agent-code"] == ("different", ("ack_wait is 5 s, wanted 30 s",))
    assert (await outcomes(server.url, "code", update=True))["agent-code"][0] == "updated"
    assert (await outcomes(server.url, "code"))["agent-code"][0] == "found"


async def test_a_second_durable_on_the_same_tasks_is_refused_by_naming_the_first(server: NatsServer):
    await outcomes(server.url, "code")
    async with connect(server.url) as bus:
        with pytest.raises(ApiError, match=r"agent-code has the tasks of agent\.code\.tasks already"):
            await ensure_consumer(bus.bus, "code", stream=subjects.TASKS_STREAM, name="another")


async def test_another_refusal_of_a_consumer_is_raised_in_the_words_of_the_server(server: NatsServer):
    await outcomes(server.url, "doc")
    async with connect(server.url) as bus:
        config = (await bus.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
        await bus.bus.api("STREAM.DELETE.AGENT_TASKS")
        await bus.bus.api("STREAM.CREATE.AGENT_TASKS", {**config, "max_consumers": 1})
        await ensure_consumer(bus.bus, "doc", stream=subjects.TASKS_STREAM, name="agent-doc")
        with pytest.raises(ConsumerLimitError, match="maximum consumers limit reached"):
            await ensure_consumer(bus.bus, "code", stream=subjects.TASKS_STREAM, name="agent-code")


async def test_a_stream_of_another_program_that_has_the_subjects_already_is_an_error_and_is_left_alone(
    server: NatsServer,
):
    async with connect(server.url) as bus:
        await bus.bus.api("STREAM.CREATE.MINE", {"name": "MINE", "subjects": ["agent.code.results"]})
        with pytest.raises(ApiError, match="subjects overlap with an existing stream"):
            await set_up(bus.bus)
        assert await bus.bus.stream_names() == ["AGENT_TASKS", "MINE"]


async def test_subjects_that_differ_are_listed(server: NatsServer):
    async with connect(server.url) as bus:
        old = {"name": "AGENT_DEAD", "subjects": ["agent.*.dead", "more"], "max_age": 30 * 86400 * 10**9}
        await bus.bus.api("STREAM.CREATE.AGENT_DEAD", old)
    found = (await outcomes(server.url))["AGENT_DEAD"][1]
    assert "subjects is agent.*.dead more agent.*.dead.*, wanted agent.*.dead agent.*.dead.*" in found


NO_PEERS = refused(10005, "no suitable peers for placement")


async def test_a_stream_without_suitable_peers_yet_is_requested_again(server: NatsServer):
    async with altered_link(server.url) as link:
        link.changes["$JS.API.STREAM.CREATE.AGENT_RESULTS"] = at_first(2, NO_PEERS)
        found = await outcomes(link.url)
    assert {outcome for outcome, _ in found.values()} == {"made"}


async def test_more_replicas_than_servers_are_refused_with_what_to_do(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replicas, "_PLACING_S", 0.5)
    async with altered_link(server.url) as link:
        link.info["cluster"] = "three"
        link.changes["$JS.API.STREAM.CREATE.AGENT_TASKS"] = NO_PEERS
        with pytest.raises(
            ApiError, match="the cluster has not 5 servers that are up and have room for a replica each"
        ):
            await outcomes(link.url, replicas=5)


async def test_storage_is_shared_out_where_the_server_grants_a_bounded_amount(tmp_path: Path):
    conf = tmp_path / "bounded.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}", max_file_store: 1GB }}\n'
        "accounts { BUS { jetstream: { max_file: 500MB, max_memory: 10MB }, users: [ { user: a, password: b } ] } }\n"
        "no_auth_user: a\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "s", config=conf) as server:
        made = await outcomes(server.url, "code")
        async with connect(server.url) as bus:
            config = (await bus.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    assert {outcome for outcome, _ in made.values()} == {"made"}
    assert 0 < config["max_bytes"] < 500_000_000


ALONE = ReplicaPlan(granted_bytes=-1, for_new=1, for_existing=None, clustered=False)
TASKS = wanted_streams()[0]


def test_the_plan_for_an_empty_bus_makes_everything_with_its_share_of_the_storage():
    replicas = ReplicaPlan(granted_bytes=1000, for_new=3, for_existing=3, clustered=True)
    steps = plan(wanted_streams(), ["code"], Found(), replicas, update=False)
    assert {step.action for step in steps} == {"create"}
    assert steps[0].config == {**TASKS.config, "max_bytes": 50, "num_replicas": 3}
    assert [step.config for step in steps[-2:]] == list(wanted_consumers("code"))
    assert steps[0].as_found().outcome == "missing"


def test_the_plan_leaves_what_is_as_wanted_and_the_bound_that_an_administrator_chose():
    streams = {"AGENT_TASKS": {**TASKS.config, "max_bytes": 7, "num_replicas": 5}}
    found = Found(streams, {one["durable_name"]: {**one, "of_tomorrow": 1} for one in wanted_consumers("code")})
    for update in (False, True):
        steps = plan([TASKS], ["code"], found, ALONE, update=update)
        assert [(step.action, step.differences) for step in steps] == [("leave", ())] * 3
        assert [step.as_found().outcome for step in steps] == ["found"] * 3


def test_the_plan_changes_differences_on_request_only_and_keeps_unknown_fields():
    streams = {"AGENT_TASKS": {**TASKS.config, "max_age": 10**9, "max_bytes": 7, "of_tomorrow": 1}}
    found = Found(streams, {one["durable_name"]: {**one, "ack_wait": 10**9} for one in wanted_consumers("code")})
    left = plan([TASKS], ["code"], found, ALONE, update=False)
    assert [(step.action, step.as_found().outcome) for step in left] == [("leave", "different")] * 3
    stream, *consumers = plan([TASKS], ["code"], found, ALONE, update=True)
    assert {step.action for step in (stream, *consumers)} == {"update"}
    assert stream.config == {**TASKS.config, "max_bytes": 7, "of_tomorrow": 1}
    assert stream.differences == ("max_age is 1 s, wanted 604800 s",)
    assert [step.config for step in consumers] == list(wanted_consumers("code"))


def test_the_plan_changes_replicas_and_limits_that_were_asked_for_and_nothing_else():
    files = wanted_files("code", 2000)
    found = {**files.config, "max_bytes": 1000, "max_age": 10**9, "num_replicas": 1}
    replicas = ReplicaPlan(granted_bytes=-1, for_new=3, for_existing=3, clustered=True)
    (step,) = plan([files], [], Found({files.name: found}), replicas, update=False)
    assert step.action == "update"
    assert step.config == {**found, "max_bytes": 2000, "num_replicas": 3}
    done = {**files.config, "num_replicas": 3}
    assert plan([files], [], Found({files.name: done}), replicas, update=False)[0].action == "leave"


async def test_the_command_prints_json_lines_and_is_idempotent(server: NatsServer):
    first = await run_cli("setup", "--nats-url", server.url, "--agent", "code", "--agent", "agent-doc")
    again = await run_cli("setup", "--nats-url", server.url, "--agent", "code")
    assert first.code == again.code == 0
    assert first.out.count('"outcome":"made"') == len(first.out.splitlines()) == 18
    assert again.out.count('"outcome":"found"') == len(again.out.splitlines()) == 15


@pytest.mark.parametrize("size", ["", "2", "2GB", "-2GiB", "0GiB", "2.5GiB", "GiB", "9999999TiB"])
async def test_a_limit_that_is_no_amount_of_storage_is_refused(size: str):
    done = await run_cli("setup", "--agent", "code", "--files-limit", size)
    assert done.code == 2
    assert "write it as 512MiB or 10GiB" in done.err


def test_the_bound_of_one_writer_follows_from_the_bytes_of_the_stream():
    replicas = ReplicaPlan(granted_bytes=10 << 30, for_new=1, for_existing=None, clustered=False)
    made = {step.name: step.config for step in plan(wanted_streams(attested=True), [], Found(), replicas, update=False)}
    results, dead = made["AGENT_RESULTS"], made["AGENT_DEAD"]
    assert (results["max_msgs_per_subject"], results["discard_new_per_subject"]) == (163_840, True)
    assert (dead["max_msgs_per_subject"], dead.get("discard_new_per_subject")) == (2621, None)
    raised = {**results, "max_bytes": 2 * results["max_bytes"]}
    [_, step, *_] = plan(wanted_streams(attested=True), [], Found({"AGENT_RESULTS": raised}), replicas, update=True)
    assert step.differences == ("max_msgs_per_subject is 163840, wanted 327680",)
    unlimited = {
        step.name: step.config for step in plan(wanted_streams(attested=True), [], Found(), ALONE, update=False)
    }
    assert unlimited["AGENT_RESULTS"]["max_msgs_per_subject"] == 1_638_400
    assert unlimited["AGENT_RESULTS"]["max_bytes"] == -1


def test_where_all_writers_share_the_subject_of_an_inbox_it_has_no_bound():
    made = {step.name: step.config for step in plan(wanted_streams(), [], Found(), ALONE, update=False)}
    assert "max_msgs_per_subject" not in made["AGENT_RESULTS"]
    assert "max_msgs_per_subject" in made["AGENT_DEAD"], "a dead letter names its agent everywhere"


async def test_an_update_that_would_delete_messages_leaves_the_bound_and_changes_the_rest(server: NatsServer):
    async with connect(server.url) as bus:
        room_for_two = 2 * 10 * (16 << 10) + 100
        old = {"name": "AGENT_DEAD", "subjects": ["agent.*.dead"], "max_bytes": room_for_two}
        await bus.bus.api("STREAM.CREATE.AGENT_DEAD", old)
        for _ in range(3):
            await bus.bus.store("agent.code.dead", b"x")
        outcome, differences = (await outcomes(server.url, update=True))["AGENT_DEAD"]
        assert outcome == "different"
        assert differences[0] == "max_msgs_per_subject is -1, wanted 2"
        assert "agent.code.dead holds 3 messages, and the server would delete the oldest" in differences[1]
        info = await bus.bus.stream_info("AGENT_DEAD")
        assert (info.state.messages, info.config["discard"], info.max_age_s) == (3, "new", 30 * 86400)
        await bus.bus.api("STREAM.MSG.DELETE.AGENT_DEAD", {"seq": 2})
        assert (await outcomes(server.url, update=True))["AGENT_DEAD"][0] == "updated"
        info = await bus.bus.stream_info("AGENT_DEAD")
        assert (info.state.messages, info.max_per_subject) == (2, 2)


def test_the_ledger_gets_more_of_the_storage_than_the_results_and_all_shares_fit():
    shares = {item.name: item.share for item in wanted_streams()}
    assert shares["KV_AGENT_STATE"] > shares["AGENT_RESULTS"]
    assert 0.8 < sum(shares.values()) < 0.85, "the rest is for files"


def test_a_stream_keeps_its_room_unless_the_shares_are_asked_for_anew():
    was = {item.name: {**item.config, "max_bytes": 300} for item in wanted_streams()}
    for update in (False, True):
        kept = plan(wanted_streams(), [], Found(was), replace(ALONE, granted_bytes=1000), update=update)
        assert {step.config["max_bytes"] for step in kept} == {300}
    anew = replace(ALONE, granted_bytes=1000, shares_anew=True)
    steps = {step.name: step for step in plan(wanted_streams(), [], Found(was), anew, update=False)}
    assert (steps["KV_AGENT_STATE"].config["max_bytes"], steps["KV_AGENT_STATE"].turn) == (350, 2)
    assert (steps["AGENT_RESULTS"].config["max_bytes"], steps["AGENT_RESULTS"].turn) == (250, 0)
    assert steps["AGENT_AUDIT"].config["max_bytes"] == 300, "with less, the server would delete lines"


def test_how_many_tasks_may_be_in_work_is_left_unless_it_is_asked_for():
    mine = {one["durable_name"]: {**one, "max_ack_pending": 7} for one in wanted_consumers("code")}
    found = Found({}, mine)
    for update in (False, True):
        steps = plan([], ["code"], found, ALONE, update=update)
        assert [(step.action, step.differences) for step in steps] == [("leave", ())] * 2
    steps = plan([], ["code"], found, ALONE, update=False, max_ack_pending=50)
    assert [(step.action, step.config["max_ack_pending"]) for step in steps] == [("update", 50)] * 2
    steps = plan([], ["code"], Found(), ALONE, update=False, max_ack_pending=50)
    assert [(step.action, step.config["max_ack_pending"]) for step in steps] == [("create", 50)] * 2


async def test_the_bound_of_unacknowledged_tasks_is_an_option_for_new_and_existing_consumers(coordinator: Coordinator):
    url = coordinator.bus.settings.servers

    async def bounds() -> set[int]:
        consumers = await coordinator.bus.consumers(subjects.TASKS_STREAM)
        return {one.config["max_ack_pending"] for one in consumers}

    for more, wanted in ((["30"], 30), (["40"], 40), ([], 40)):
        option = ["--max-ack-pending", *more] if more else ["--update"]
        assert (await run_cli("setup", "--nats-url", url, "--agent", "code", *option)).code == 0
        assert await bounds() == {wanted}
    done = await run_cli("setup", "--nats-url", url, "--max-ack-pending", "40")
    assert (done.code, "--max-ack-pending goes with --agent" in done.err) == (2, True)


async def test_shares_are_given_anew_where_all_of_the_storage_is_reserved_already(tmp_path: Path):
    conf = tmp_path / "bounded.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}", max_file_store: 1GB }}\n'
        "accounts { BUS { jetstream: { max_file: 100MiB, max_memory: 10MB }, users: [ { user: a, password: b } ] } }\n"
        "no_auth_user: a\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "s", config=conf) as server, connect(server.url) as bus:
        await set_up(bus.bus)
        taken = {"AGENT_RESULTS": 45 << 20, "KV_AGENT_STATE": 15 << 20, "AGENT_TASKS": 15 << 20}
        for name in sorted(taken, key=lambda name: taken[name]):
            config = (await bus.bus.stream_info(name)).config
            await bus.bus.api(f"STREAM.UPDATE.{name}", {**config, "max_bytes": taken[name]})
        done = await run_cli("setup", "--nats-url", server.url, "--shares")
        assert (done.code, without_its_warning(done.err)) == (0, "")
        made = {name: (await bus.bus.stream_info(name)).max_bytes >> 20 for name in taken}
    assert made == {"AGENT_RESULTS": 25, "KV_AGENT_STATE": 35, "AGENT_TASKS": 15}
