"""Every kind of credential on a real server: it works for commands, worker and MCP server, or one line says why not."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agentbus.config.nkeys import new_seed
from agentbus.provision.certificates import new_authority
from support.harness import run_cli, worker
from support.mcp_harness import data_of, over_stdio
from support.signing_in import KINDS, Bus, client_certificate, signing_in

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
async def bus(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Bus]:
    async with signing_in(tmp_path, request.param) as running:
        yield running


def on(*kinds: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bus", kinds, indirect=True)


# -- right ------------------------------------------------------------------------------------------------------


@pytest.mark.gate("creds", "TLS first", "password and certificate")
@on(*KINDS)
async def test_with_each_kind_of_credential_commands_worker_and_mcp_server_do_the_main_job(bus: Bus) -> None:
    main = str(bus.coordinator_toml("main"))
    made = await run_cli("setup", "--config", str(bus.coordinator_toml("admin")), "--agent", "code")
    assert made.code == 0, made.err
    async with worker(bus.worker_toml()) as process:
        task = ("--to", "code", "--task-type", "test", "say:done")
        published = await run_cli("task", "publish", "--config", main, *task)
        assert (published.code, published.err) == (0, "")
        task_id = json.loads(published.out)["id"]
        async with over_stdio(bus.folder / "mcp.log", "auto", "--config", main) as client:
            answer = await client.call_tool("watch_results", {"task_ids": [task_id], "timeout_seconds": 20})
            assert [result["output"] for result in data_of(answer)["results"]] == ["done\n"]
            job = {"to": ["code"], "content": "say:twice", "task_type": "test"}
            second = data_of(await client.call_tool("publish_task", job))["published"][0]["task_id"]
            answer = await client.call_tool("watch_results", {"task_ids": [second], "timeout_seconds": 20})
            assert [result["output"] for result in data_of(answer)["results"]] == ["twice\n"]
        read = await run_cli("result", "get", "--config", main, "--agent", "main", "--limit", "5")
        assert [json.loads(line)["result"] for line in read.out.splitlines()] == ["done\n", "twice\n"]
        doctor = await run_cli("doctor", "--config", main, "--json")
        assert doctor.code == 0, doctor.out
        said = (
            process.log.read_text(encoding="utf-8")
            + doctor.out
            + doctor.err
            + (bus.folder / "mcp.log").read_text(encoding="utf-8")
        )
    assert [name for name, secret in bus.secrets.items() if secret in said or quote(secret, safe="") in said] == []


# -- wrong ------------------------------------------------------------------------------------------------------


Change = Callable[[Bus], dict[str, Any]]


def _wrong_password(bus: Bus) -> dict[str, Any]:
    return {"password_file": bus.write("wrong.password", "Wr0ng:secret\n")}


def _wrong_token(bus: Bus) -> dict[str, Any]:
    return {"token_file": bus.write("wrong.token", "Wr0ng:secret\n")}


def _wrong_nkey(bus: Bus) -> dict[str, Any]:
    return {"nkey_file": bus.write("wrong.nk", new_seed() + "\n")}


def _cut_nkey(bus: Bus) -> dict[str, Any]:
    return {"nkey_file": bus.write("cut.nk", new_seed()[:-4] + "\n")}


def _expired(bus: Bus) -> dict[str, Any]:
    assert bus.operator is not None
    return {"creds_file": bus.write("expired.creds", bus.operator.creds("code", expires=time.time() - 3600))}


def _of_another_account(bus: Bus) -> dict[str, Any]:
    assert bus.operator is not None
    return {"creds_file": bus.write("other.creds", type(bus.operator)().creds("code"))}


def _no_creds(bus: Bus) -> dict[str, Any]:
    return {"creds_file": bus.write("empty.creds", "nothing\n")}


def _without_credentials(bus: Bus) -> dict[str, Any]:
    return dict.fromkeys(("user", "password_file", "token_file", "nkey_file", "creds_file"))


def _missing_file(bus: Bus) -> dict[str, Any]:
    return {"password_file": bus.folder / "missing.password"}


def _without_ca(bus: Bus) -> dict[str, Any]:
    return {"ca_file": None}


def _another_ca(bus: Bus) -> dict[str, Any]:
    return {"ca_file": bus.write("another-ca.pem", new_authority("Another CA").certificate)}


def _tls_later(bus: Bus) -> dict[str, Any]:
    return {"tls_first": False}


def _folder(bus: Bus) -> dict[str, Any]:
    return {"password_file": bus.folder}


def _no_ca(bus: Bus) -> dict[str, Any]:
    return {"ca_file": bus.write("no-ca.pem", "nothing\n")}


def _another_name(bus: Bus) -> dict[str, Any]:
    return {"url": str(bus.nats["code"]["url"]).replace("127.0.0.1", "localhost")}


def _without_certificate(bus: Bus) -> dict[str, Any]:
    return {"cert_file": None, "key_file": None}


def _certificate(bus: Bus, name: str, *, common_name: str = "agent-code", **more: Any) -> dict[str, Any]:
    assert bus.authority is not None
    pair = client_certificate(more.pop("authority", bus.authority), common_name, **more)
    key = bus.write(f"{name}-key.pem", pair.key)
    return {"cert_file": bus.write(f"{name}.pem", pair.certificate), "key_file": key}


def _another_key(bus: Bus) -> dict[str, Any]:
    return {"key_file": _certificate(bus, "another")["key_file"]}


def _without_key(bus: Bus) -> dict[str, Any]:
    return {"key_file": None}


def _encrypted_key(bus: Bus) -> dict[str, Any]:
    return _certificate(bus, "encrypted", pass_phrase=b"a pass phrase")


def _certificate_of_another_ca(bus: Bus) -> dict[str, Any]:
    return _certificate(bus, "foreign", authority=new_authority("Another CA"))


def _expired_certificate(bus: Bus) -> dict[str, Any]:
    return _certificate(bus, "expired", days=-1)


def _certificate_without_user(bus: Bus) -> dict[str, Any]:
    return _certificate(bus, "no-user", common_name="agent-unknown")


REFUSED: list[tuple[str, Change, str]] = [
    ("password", _wrong_password, "refused the credentials of the user agent-code (the password in {}/wrong.password)"),
    ("password", _without_credentials, "there are none in the configuration; set user and password_file"),
    ("token", _wrong_token, "refused the credentials (the token in {}/wrong.token)"),
    ("nkey", _wrong_nkey, "it may have been replaced; join again with a new bundle, or check nkey_file in [nats]"),
    ("creds", _expired, "the user JWT in {}/expired.creds has expired on "),
    ("creds", _of_another_account, "refused the credentials (the user JWT in {}/other.creds)"),
    (
        "certificate",
        _certificate_without_user,
        "the client certificate in {}/no-user.pem): the server knows no user for it",
    ),
]
UNUSABLE: list[tuple[str, Change, str]] = [
    ("password", _missing_file, "cannot read the secret in {}/missing.password: No such file or directory"),
    ("password", _folder, "cannot read the secret in {}: Is a directory"),
    ("nkey", _cut_nkey, "the secret in {}/cut.nk cannot be used: it is not the seed of a user's nkey"),
    ("creds", _no_creds, "{}/empty.creds cannot be used: there is no block BEGIN NATS USER JWT in it"),
    ("own CA", _no_ca, "ca_file {}/no-ca.pem holds no certificate in PEM form"),
    ("certificate", _another_key, "key_file {0}/another-key.pem does not belong to cert_file {0}/code.pem"),
    ("certificate", _without_key, "name the private key with key_file"),
    ("certificate", _encrypted_key, "key_file {0}/encrypted-key.pem is encrypted"),
]
UNSAFE: list[tuple[str, Change, str]] = [
    ("own CA", _without_ca, "set ca_file in [nats] for a private CA"),
    ("own CA", _another_ca, "{}/another-ca.pem is not the CA of this server"),
    ("own CA", _another_name, "write a name or address into url that the server's certificate has"),
    ("TLS first", _another_ca, "{}/another-ca.pem is not the CA of this server"),
    ("TLS first", _tls_later, "set tls_first"),
    ("certificate", _without_certificate, "the server asks for a client certificate: set cert_file and key_file"),
    ("password and certificate", _without_certificate, "the server asks for a client certificate: set cert_file"),
    ("certificate", _certificate_of_another_ca, "the server does not accept {}/foreign.pem"),
    ("certificate", _expired_certificate, "the server does not accept {}/expired.pem"),
]


def cases(*tables: list[tuple[str, Change, str]]) -> pytest.MarkDecorator:
    rows = [row for table in tables for row in table]
    ids = [f"{kind}-{change.__name__.strip('_')}" for kind, change, _ in rows]
    return pytest.mark.parametrize(("bus", "change", "text"), rows, indirect=["bus"], ids=ids)


def secrets_of(bus: Bus) -> list[str]:
    """What stands in the files of the folder that hold secrets, line by line."""
    files = [path for path in bus.folder.iterdir() if path.suffix in (".password", ".token", ".nk", ".creds")]
    lines = [
        line
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("--")
    ]
    return [line for line in lines if line != "nothing"]


@pytest.mark.gate(
    "token",
    "expired",
    "without_user",
    "password-missing",
    "no_ca",
    "another_name",
    "tls_later",
    "certificate_of_another_ca",
)
@cases(REFUSED, UNUSABLE, UNSAFE)
async def test_what_is_wrong_with_a_credential_is_said_in_one_line_that_names_the_fix(
    bus: Bus, change: Change, text: str
) -> None:
    changes, wanted = change(bus), text.format(bus.folder)
    config = str(bus.coordinator_toml("code", **changes))
    read, doctor = await asyncio.gather(
        run_cli("result", "get", "--config", config, "--agent", "main", timeout_s=30),
        run_cli("doctor", "--config", config, "--json"),
    )
    assert (read.code, read.out) == (1, "")
    [line] = read.err.splitlines()
    assert line.startswith("error: ")
    assert wanted in line
    failed = [found for found in map(json.loads, doctor.out.splitlines()) if found["verdict"] == "failed"]
    assert doctor.code == 1
    assert wanted in json.dumps(failed[:1])
    assert [secret for secret in secrets_of(bus) if secret in read.err + doctor.out + doctor.err] == []


@pytest.mark.gate("nkey-wrong", "creds-no_creds", "without_user")
@cases(REFUSED, UNUSABLE)
async def test_a_worker_ends_on_credentials_that_cannot_work_and_says_why(bus: Bus, change: Change, text: str) -> None:
    async with worker(bus.worker_toml(**change(bus)), ready=False) as process:
        assert await process.exit_code() == 1
        assert process.said(text.format(bus.folder))
        assert [secret for secret in secrets_of(bus) if process.said(secret)] == []
        assert not process.said("Traceback")


@pytest.mark.gate("another_ca", "and certificate")
@cases(UNSAFE)
async def test_a_worker_waits_for_a_server_that_it_may_trust_and_says_why(bus: Bus, change: Change, text: str) -> None:
    async with worker(bus.worker_toml(**change(bus)), ready=False) as process:
        await process.until_said(text.format(bus.folder))
        await process.until_said("trying again about every")
        assert not process.said("Traceback")


@pytest.mark.gate("password", "TLS first")
@cases(REFUSED[:1], UNUSABLE[-1:], UNSAFE[:1], UNSAFE[3:4])
async def test_the_mcp_server_tells_the_model_why_it_cannot_sign_in(bus: Bus, change: Change, text: str) -> None:
    config, wanted = bus.coordinator_toml("code", **change(bus)), text.format(bus.folder)
    log = bus.folder / "mcp.log"
    async with over_stdio(log, "auto", "--config", str(config)) as client:
        answer = await client.call_tool("get_results", {})
        assert answer.is_error
        assert wanted in json.dumps(answer.model_dump(mode="json")["content"])
    assert [secret for secret in secrets_of(bus) if secret in log.read_text(encoding="utf-8")] == []


@on("certificate")
async def test_a_key_that_others_can_read_is_a_warning(bus: Bus) -> None:
    (bus.folder / "code-key.pem").chmod(0o644)
    done = await run_cli("doctor", "--json", "--config", str(bus.coordinator_toml("code")))
    [found] = [finding for finding in map(json.loads, done.out.splitlines()) if finding["check"] == "files"]
    assert f"chmod 600 {bus.folder / 'code-key.pem'}" in found["text"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@on("certificate")
async def test_the_command_in_the_error_removes_the_pass_phrase(bus: Bus) -> None:
    changes = _encrypted_key(bus)
    read = await run_cli("result", "get", "--config", str(bus.coordinator_toml("code", **changes)), "--agent", "main")
    command = read.err.partition("with: ")[2].partition(",")[0].replace("NEW-KEY", str(bus.folder / "plain.pem"))
    openssl = await asyncio.create_subprocess_exec(*command.split(), "-passin", "pass:a pass phrase")
    assert await openssl.wait() == 0
    changes["key_file"] = bus.folder / "plain.pem"
    config = bus.coordinator_toml("code", **changes)
    done = await run_cli("doctor", "--json", "--config", str(config))
    [found] = [finding for finding in map(json.loads, done.out.splitlines()) if finding["check"] == "sign-in"]
    assert found["text"].startswith("with a client certificate")
