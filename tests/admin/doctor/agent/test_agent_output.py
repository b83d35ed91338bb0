"""`agentbus doctor` says where the output of an agent is not read as what it is, and what a known agent may not do."""

import shlex
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.admin.doctor.agent.agent_output import check_command, check_result
from agentbus.config.worker_schema import AgentSection
from agentbus.protocol.messages import Result
from agentbus.provision.agent_presets import PRESETS
from agentbus.provision.nats_server import NatsServer
from support.doctor import doctor, doctor_in_process, the_finding
from support.harness import worker, worker_toml
from support.jobs import agent_keys, outcome
from support.recorded_agents import recording


def found(command: str, output: str) -> dict[str, str]:
    """The verdicts of a command, by check, with their texts and what to do."""
    section = AgentSection.model_validate(
        {"id": "code", "chat_cmd": shlex.split(command), "prompt_via": "stdin", "output": output}
    )
    return {
        finding.check: f"{finding.verdict}: {finding.text} -> {finding.fix}"
        for finding in check_command(section, Path.cwd())
    }


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_warned_of_and_those_that_may_do_little_say_so(name: str):
    preset = PRESETS[name]
    findings = found(shlex.join(word for word in preset.command if "{input}" not in word), preset.output)
    assert "output" not in findings
    assert ("rights" in findings) == (name in ("claude", "gemini", "opencode", "qwen") or preset.output == "acp")
    assert ("untold" in findings) == (name in ("codex", "opencode", "qwen"))
    assert bool(preset.untold) == (name != "claude")


@pytest.mark.parametrize(
    ("command", "output", "said"),
    [
        ("claude -p --output-format json", "text", 'claude print JSON, and output is "text"'),
        ("/opt/bin/codex exec --json -", "text", 'set output = "codex"'),
        ("gemini -o stream-json", "text", 'set output = "gemini"'),
        ("opencode run --format=json", "text", 'set output = "opencode"'),
        ("qwen --output-format=json", "text", 'set output = "qwen"'),
        ("sh -c 'cd /srv && exec claude -p --output-format stream-json --verbose'", "text", 'set output = "claude"'),
        ("claude -p", "claude", "--output-format stream-json --verbose"),
        ("gemini -o json", "gemini", "--output-format stream-json"),
        ("codex exec --json -", "claude", 'chat_cmd runs codex, and output is "claude"'),
        ("gemini --acp", "gemini", 'set output = "acp"'),
        ("/opt/claude-agent-acp", "text", "speak the Agent Client Protocol"),
        ("opencode run --format json", "acp", "see the preset opencode-acp"),
    ],
)
def test_a_command_whose_output_is_not_read_as_what_it_is_gets_a_warning(command: str, output: str, said: str):
    finding = found(command, output)["output"]
    assert finding.startswith("warning: ")
    assert said in finding


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("claude -p", "text"),
        ("my-agent --json", "text"),
        ("my-wrapper", "claude"),
        ("my-wrapper", "acp"),
        ("sh -c 'it is \" not closed'", "text"),
        ("codex exec --sandbox workspace-write --json -", "codex"),
    ],
)
def test_any_other_command_gets_no_warning(command: str, output: str):
    assert "output" not in found(command, output)


@pytest.mark.parametrize(
    "command",
    [
        "gemini -o stream-json --approval-mode=auto_edit",
        "qwen -o stream-json -y",
        "claude -p --allowedTools Bash",
        "opencode run --auto",
        "codex exec --sandbox workspace-write",
    ],
)
def test_an_agent_with_more_rights_is_not_said_to_have_none(command: str):
    assert "rights" not in found(command, "text")


def test_what_the_events_of_an_agent_do_not_tell_is_said_where_they_are_read():
    said = {
        "codex exec --json -": ("codex", "a refusal from an empty answer"),
        "opencode run --format json": ("opencode", "for how long its model's server has it wait"),
        "qwen -o stream-json": ("qwen", "for how long its model's server has it wait"),
    }
    for command, (name, words) in said.items():
        assert words in found(command, name)["untold"]
        assert "untold" not in found(command, "text")


def test_where_gemini_has_telemetry_of_a_person_it_does_not_tell_that_an_answer_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEMINI_CLI_SYSTEM_SETTINGS_PATH", str(tmp_path / "none"))
    assert "untold" not in found("gemini -o stream-json", "gemini")
    monkeypatch.setenv("GEMINI_TELEMETRY_ENABLED", "true")
    said = found("gemini -o stream-json", "gemini")["untold"]
    assert said.startswith("ok: gemini does not tell an answer that was cut")
    assert "which the variable GEMINI_TELEMETRY_ENABLED sets here" in said
    assert "untold" not in found("gemini -o stream-json", "text")


def result_of(text: str) -> Result:
    return Result(id="r", type="task.result", status="completed", task={"id": "t", "to": "agent.code"}, result=text)


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "opencode", "qwen"])
def test_a_result_that_is_the_events_of_an_agent_is_known_by_its_first_line(name: str):
    finding = check_result(result_of("\n".join(recording(name, "ok").stdout)))
    assert finding is not None
    assert f'set output = "{name}"' in finding.fix


@pytest.mark.parametrize("text", ["", "{", '{"type": "init"}', '{"session_id": 1}', "[1]", "{" * 100_000, "fine"])
def test_a_result_that_is_anything_else_is_none_of_an_agent(text: str):
    assert check_result(result_of(text)) is None


@pytest.mark.posix("runs workers")
async def test_the_newest_result_of_an_agent_that_was_read_as_text_is_warned_of_until_it_is_read(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    lines = tmp_path / "lines"
    lines.write_text("\n".join(recording("claude", "ok").stdout) + "\n", encoding="utf-8")
    command = ["sh", "-c", f"cat {lines}", "claude", "{input}"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=command)):
        await outcome(coordinator, "x")
    finding = the_finding(await doctor_in_process(server.url), "output")
    assert (finding["verdict"], 'set output = "claude"' in finding["fix"]) == ("warning", True)

    lines.write_text('{"type": "of a later version"}\n', encoding="utf-8")
    async with worker(agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command), output="claude")):
        await outcome(coordinator, "x")
        finding = the_finding(await doctor("--nats-url", server.url, "--probe", "code"), "round trip")
    assert (finding["verdict"], "has not the form of claude" in finding["text"]) == ("warning", True)
    finding = the_finding(await doctor_in_process(server.url), "output")
    assert "has not the form of claude" in finding["text"]


@pytest.mark.parametrize(
    ("file", "text", "words", "where"),
    [
        ("home/.claude/settings.json", '{"disableAllHooks": true}', [], "disableAllHooks in"),
        ("here/.claude/settings.local.json", '{"disableAllHooks": true}', [], "settings.local.json"),
        ("here/.claude/settings.json", '{"disableAllHooks": false}', [], None),
        ("here/.claude/settings.json", "[[", [], None),
        ("here/README", "", ["--bare"], "its option --bare"),
    ],
)
def test_a_worker_that_asks_where_hooks_are_off_gets_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, words: list[str], where: str | None
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    preset = PRESETS["claude"]
    keys = {"id": "code", "chat_cmd": [*preset.command, *words], "resume_cmd": list(preset.resume or ()),
            "prompt_via": "stdin", "output": "claude"}  # fmt: skip
    assert "ask_before" not in {
        finding.check for finding in check_command(AgentSection.model_validate(keys), tmp_path / "here")
    }
    section = AgentSection.model_validate({**keys, "ask_before": ["Bash(git push*)"]})
    told = [finding.text for finding in check_command(section, tmp_path / "here") if finding.check == "ask_before"]
    assert bool(told) == (where is not None)
    for text_told in told:
        assert str(where) in text_told
        assert "claude denies the calls that ask_before names, and no person is asked" in text_told


def test_an_agent_that_asks_and_cannot_go_on_with_its_session_gets_a_warning():
    keys = {"id": "code", "chat_cmd": list(PRESETS["claude"].command), "prompt_via": "stdin", "output": "claude"}
    asking = {**keys, "ask_before": ["Bash(git push*)"]}
    for more, warned in ({}, True), ({"resume_cmd": list(PRESETS["claude"].resume or ())}, False):
        section = AgentSection.model_validate({**asking, **more})
        checks = {finding.check for finding in check_command(section, Path.cwd())}
        assert ("ask_before" in checks) == warned
