"""`agentbus doctor` reports credentials that are refused, and permissions that a role lacks or should not have."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.admin.doctor.run_checks import run_checks
from agentbus.bus.setup import set_up
from agentbus.config.loading import load_coordinator, load_worker
from agentbus.config.toml_text import toml_text
from agentbus.protocol import accounts, permissions
from agentbus.protocol.roles import Role
from agentbus.provision.join import join_as_coordinator
from agentbus.provision.nats_server import NatsServer, run_server
from support.doctor import coordinator_toml, doctor, not_ok, the_finding
from support.harness import worker_toml
from support.installation import Sample, own_bus
from support.restricted import restricted_bus

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_refused_credentials_are_reported_and_not_shown(tmp_path: Path, sample: Sample):
    url = sample.url("main").replace("own-main-k3v9", "wrong-k3v9")
    findings = await doctor("--config", str(coordinator_toml(tmp_path, sample, url=url)), code=1)
    assert not_ok(findings) == [("sign-in", "failed")]
    assert "refused the credentials" in the_finding(findings, "sign-in")["text"]
    assert "k3v9" not in json.dumps(findings)


@pytest.mark.posix("file modes are POSIX")
async def test_a_secret_that_other_users_can_read_is_a_warning_with_the_chmod_command(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    secret = tmp_path / "password"
    secret.write_text("k3v9\n", encoding="utf-8")
    secret.chmod(0o644)
    config = tmp_path / "coordinator.toml"
    config.write_text(
        toml_text({"nats": {"url": server.url, "user": "main", "password_file": secret}}), encoding="utf-8"
    )
    findings = await doctor("--config", str(config))
    assert the_finding(findings, "files")["verdict"] == "warning"
    assert f"chmod 600 {secret}" in the_finding(findings, "files")["text"]


async def test_missing_and_excessive_permissions_are_both_reported(tmp_path: Path):
    config = tmp_path / "nats.conf"
    users = [
        {"user": "admin", "password": "a"},
        {
            "user": "main",
            "password": "b",
            "permissions": {"publish": {"deny": ["agent.*.control", "$KV.AGENT_STATE.>"]}},
        },
    ]
    config.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(tmp_path / 'nats'))} }}\n"
        f"authorization {{ users: {json.dumps(users)} }}\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as running:
        where = running.url.removeprefix("nats://")
        findings = await doctor("--nats-url", f"nats://admin:a@{where}", code=1)
        assert {
            finding["text"].partition(" does not exist")[0] for finding in findings if finding["check"] == "streams"
        } == {
            "the stream AGENT_TASKS",
            "the stream AGENT_RESULTS",
        }
        assert {check for check, verdict in not_ok(findings) if verdict == "failed"} == {"streams"}
        as_worker = await doctor(
            "--role", "worker", "--config", str(worker_toml(tmp_path, f"nats://admin:a@{where}")), code=1
        )
        assert {check for check, verdict in not_ok(as_worker) if verdict == "failed"} == {"consumer"}
        async with connect(f"nats://admin:a@{where}") as admin:
            await set_up(admin.bus)
        findings = await doctor("--nats-url", f"nats://main:b@{where}", code=1)
    refused = the_finding(findings, "permissions")
    assert refused["verdict"] == "failed"
    assert "agent.*.control" in refused["text"]
    assert "$KV.AGENT_STATE.>" in refused["text"]
    assert "agent.*.tasks" not in refused["text"]
    assert the_finding(findings, "limits")["verdict"] == "warning"
    assert "delete streams" in the_finding(findings, "limits")["text"]


async def test_a_missing_read_permission_is_a_failure_that_says_what_to_grant(tmp_path: Path):
    config = tmp_path / "nats.conf"
    denied = {"deny": ["$JS.API.CONSUMER.INFO.>", "$JS.API.STREAM.INFO.>"]}
    users = [
        {"user": "admin", "password": "a"},
        {"user": "blind", "password": "b", "permissions": {"publish": denied}},
    ]
    config.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(tmp_path / 'nats'))} }}\n"
        f"authorization {{ users: {json.dumps(users)} }}\n",
        encoding="utf-8",
    )
    async with run_server(store=tmp_path / "nats", config=config) as running:
        where = running.url.removeprefix("nats://")
        async with connect(f"nats://admin:a@{where}") as admin:
            await set_up(admin.bus, ["code"])
        worker_config = worker_toml(tmp_path, f"nats://blind:b@{where}")
        as_worker = await doctor("--role", "worker", "--config", str(worker_config), code=1)
        as_main = await doctor("--nats-url", f"nats://blind:b@{where}", code=1)
    for findings, check in ((as_worker, "consumer"), (as_main, "streams")):
        found = the_finding(findings, check)
        assert found["verdict"] == "failed"
        assert found["fix"].startswith("grant it")
        assert "clock" not in {finding["check"] for finding in findings}


async def test_heartbeats_and_cancellations_that_a_worker_may_not_use_are_missing_permissions(tmp_path: Path):
    granted = {
        "publish": {"allow": ">", "deny": ["agent.code.heartbeat"]},
        "subscribe": {"allow": ">", "deny": ["agent.code.control"]},
    }
    async with restricted_bus(tmp_path, {"agent-code": granted}, agents=["code"]) as bus:
        config, _ = load_worker(worker_toml(tmp_path, bus.url("agent-code")))
        findings = [finding.to_json() async for finding in run_checks("worker", config, "a test")]
    finding = the_finding(findings, "permissions")
    assert finding["verdict"] == "failed"
    assert finding["text"] == "this user may not use agent.code.heartbeat, agent.code.control"


@pytest.mark.gate("alice", "bob")
@pytest.mark.parametrize(
    ("name", "role"), [("alice", "member"), ("dave", "member"), ("bob", "viewer"), ("carol", "operator")]
)
async def test_a_named_coordinator_has_all_that_its_role_needs_and_no_more(tmp_path: Path, name: str, role: Role):
    only = ["code"] if name == "alice" else None
    async with own_bus(tmp_path, coordinators={name: (role, only)}) as bus:
        config = join_as_coordinator(bus.folder.bundle(name, "coordinator"), tmp_path / "here")
        findings = await doctor("--config", str(config))
        assert not_ok(findings) == []
        assert the_finding(findings, "permissions")["verdict"] == "ok"
        # A configuration that claims another role is told what the server does not let it do.
        text = config.read_text(encoding="utf-8").replace(f'role = "{role}"', 'role = "operator"')
        config.write_text(text.replace('agents = ["code"]', ""), encoding="utf-8")
        claimed = await doctor("--config", str(config), code=0 if role == "operator" else 1)
        verdict = the_finding(claimed, "permissions")["verdict"]
        assert verdict == ("ok" if role == "operator" else "failed")


async def test_a_member_that_may_do_more_than_its_role_is_a_warning(tmp_path: Path):
    async with restricted_bus(tmp_path, {"agent-alice": {"publish": ">", "subscribe": ">"}}, agents=["code"]) as bus:
        where = {"url": bus.url("agent-alice")}
        config = tmp_path / "coordinator.toml"
        config.write_text(toml_text({"nats": where, "coordinator": {"id": "alice"}}), encoding="utf-8")
        found = the_finding(await doctor("--config", str(config)), "limits")
    assert found["verdict"] == "warning"
    assert "give tasks as main" in found["text"]
    assert "change the tasks of others" in found["text"]


async def test_a_ledger_that_is_read_by_filters_is_an_older_layout_and_one_that_is_not_read_a_failure(tmp_path: Path):
    wide = ["$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.*.>", "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.*"]
    narrow = "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.*.$KV.AGENT_STATE.>"
    viewer = permissions.coordinator("bob", "viewer", [], layout=accounts.LAYOUT_WITH_CONTROL)
    older = [one for one in viewer.publish if one not in wide]
    users = {
        "older": {"publish": [*older, narrow], "subscribe": ">"},
        "blind": {"publish": older, "subscribe": ">"},
    }
    found: dict[str, list[tuple[str, str]]] = {}
    async with restricted_bus(tmp_path, users) as bus:
        for user in users:
            where = {"url": bus.url(user), "inbox_prefix": "_INBOX_bob"}
            who = {"id": "bob", "role": "viewer"}
            config, _ = load_coordinator(path=written(tmp_path / f"{user}.toml", {"nats": where, "coordinator": who}))
            findings = [finding.to_json() async for finding in run_checks("coordinator", config, "a test")]
            found[user] = [one for one in not_ok(findings) if one[0] in ("layout", "permissions")]
    assert found == {"older": [("layout", "warning")], "blind": [("permissions", "failed"), ("layout", "warning")]}


def written(path: Path, values: dict[str, dict[str, str]]) -> Path:
    path.write_text(toml_text(values), encoding="utf-8")
    return path
