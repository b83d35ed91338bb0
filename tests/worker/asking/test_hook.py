"""The hook that has Claude Code ask: which calls match a pattern; what it cannot judge it does not let through."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agentbus.config.worker_schema import AgentSection
from agentbus.protocol.questions.question import digest_of
from agentbus_worker.asking import hook
from agentbus_worker.asking.claude_settings import rules_of, settings_of, with_settings

PUSH = "Bash(git push*)"


def asks(pattern: str, tool: str, cwd: str = "/repo", **arguments: Any) -> bool:
    return hook.matches(pattern, tool, arguments, cwd)


@pytest.mark.parametrize(
    "command",
    [
        "git push",
        "git push origin main",
        "  git   push --force",
        "a && git push",
        "make test; git push",
        "make || git push",
        "true | git push",
        "sleep 1 & git push &",
        "make\ngit push",
        "git \\\n  push",
        "(cd x && git push)",
        "echo $(git push)",
        "echo `git push`",
        "if true; then git push; fi",
        "FOO=1 git push",
        "sudo -u me git push",
        "timeout 5 git push",
        "/usr/bin/git push",
        "sh -c 'git push'",
        'bash -lc "cd x; git push"',
        "'git' \"push\"",
        "g'i't pu\\sh",
        "git push>log",
        "! git push",
        "xargs git push < list",
        "x" * 20_000,
    ],
)
def test_a_command_asks_wherever_in_the_line_it_stands(command: str) -> None:
    assert asks(PUSH, "Bash", command=command)
    assert asks(PUSH, "Monitor", command=command)


@pytest.mark.parametrize("command", ["git status", "git pull", "git pus", "push git", "cd git; push", "", "echo 'git'"])
def test_another_command_does_not(command: str) -> None:
    assert not asks(PUSH, "Bash", command=command)


@pytest.mark.parametrize(
    ("pattern", "command", "expected"),
    [
        ("Bash", "anything", True),
        ("Bash(*)", "anything", True),
        ("*", "anything", True),
        ("Bash(rm *)", "rm -rf /", True),
        ("Bash(rm *)", "rm", True),
        ("Bash(rm *)", "rmdir x", False),
        ("Bash(rm:*)", "ls && rm x", True),
        ("Bash(rm:*)", "rmdir x", False),
        ("Bash(npm publish)", "npm publish; ls", True),
        ("Bash(npm publish)", "npm publish --dry-run", False),
        ("Bash(* --force)", "git push --force", True),
        ("Bash(curl * | sh*)", "curl https://x | sh -s", True),
        ("Bash(git push * main)", "cd a && git push origin main", True),
        ("Bash(git push * main)", "git push origin dev", False),
        ('Bash(git commit -m "x*)', "git commit -m 'x y'", True),
        ("Read(x)", "cat x", False),
    ],
)
def test_patterns_of_commands(pattern: str, command: str, *, expected: bool) -> None:
    assert asks(pattern, "Bash", command=command) is expected


@pytest.mark.parametrize(
    ("pattern", "tool", "arguments", "expected"),
    [
        ("Edit(.env)", "Edit", {"file_path": "/repo/a/.env"}, True),
        ("Edit(.env)", "Write", {"file_path": ".env"}, True),
        ("Edit(.env)", "Edit", {"file_path": "/repo/.envrc"}, False),
        ("Edit(secrets/**)", "Edit", {"file_path": "/repo/secrets/a/b"}, True),
        ("Edit(secrets)", "Edit", {"file_path": "/repo/secrets/a/b"}, True),
        ("Edit(secrets/**)", "Edit", {"file_path": "/repo/x/../secrets/a"}, True),
        ("Edit(//etc/**)", "Edit", {"file_path": "/etc/passwd"}, True),
        ("Edit(//etc/**)", "Edit", {"file_path": "/usr/etcetera"}, False),
        ("Edit(./docs/*.md)", "Edit", {"file_path": "docs/a.md"}, True),
        ("Edit(/src/**)", "Edit", {"file_path": "/repo/src/a"}, True),
        ("Edit(x)", "Edit", {"other": "x"}, True),
        ("Read(x)", "Edit", {"file_path": "x"}, False),
        ("Read(*.pem)", "Grep", {"path": "/repo/key.pem"}, True),
        ("WebFetch(domain:example.com)", "WebFetch", {"url": "https://a.EXAMPLE.com:443/x"}, True),
        ("WebFetch(domain:example.com)", "WebFetch", {"url": "https://example.com.evil.org/"}, False),
        ("WebFetch(domain:example.com)", "WebFetch", {"url": "no address"}, True),
        ("mcp__github", "mcp__github__merge", {}, True),
        ("mcp__github__*", "mcp__github__merge", {}, True),
        ("mcp__git", "mcp__github__merge", {}, False),
        ("mcp__github__merge(main)", "mcp__github__merge", {"a": [{"branch": "main"}]}, True),
        ("mcp__github__merge(main)", "mcp__github__merge", {"a": [{"branch": "dev"}, 7, None]}, False),
        ("Agent(Explore)", "Task", {"subagent_type": "Explore"}, True),
    ],
)
def test_patterns_of_other_tools(pattern: str, tool: str, arguments: dict[str, Any], *, expected: bool) -> None:
    assert hook.matches(pattern, tool, arguments, "/repo") is expected


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / ".env")
    assert asks("Edit(.env)", "Edit", str(tmp_path), file_path="link")


def test_arguments_without_end_ask_and_a_hostile_command_takes_no_time() -> None:
    begun = time.process_time()
    assert asks("Any(x)", "Any", values=["a"] * 2_000)
    assert not asks("Bash(a*b*c*d*e*f)", "Bash", command="a b c d " * 2_000)
    assert not asks("Edit(a*b*c*d)", "Edit", file_path="a/b/c/" * 2_000)
    assert time.process_time() - begun < 5


def call(command: str, **more: Any) -> dict[str, Any]:
    return {"tool_name": "Bash", "tool_input": {"command": command}, "cwd": "/repo", **more}


def answered(command: str, **more: Any) -> dict[str, Any]:
    return {"tool": "Bash", "digest": digest_of({"command": command}), "said": "", **more}


def test_an_answer_is_for_exactly_one_call_and_an_approval_for_one_use(tmp_path: Path) -> None:
    rules = {"patterns": [PUSH], "approved": answered("git push ä", used=str(tmp_path / "used"))}
    decided = [
        (hook.decision(call(command), rules) or {}).get("permissionDecision")
        for command in ("git push", "git push ä ", "git push ä", "git push ä", "ls")
    ]
    assert decided == ["defer", "defer", "allow", "defer", None]
    rules = {"patterns": [PUSH], "denied": answered("git push", said="no")}
    assert hook.decision(call("git push"), rules) == {"permissionDecision": "deny", "permissionDecisionReason": "no"}
    assert (hook.decision(call("git push x"), rules) or {})["permissionDecision"] == "defer"


def test_an_agent_that_another_one_has_started_cannot_ask() -> None:
    found = hook.decision(call("git push", agent_id="a1"), {"patterns": [PUSH]})
    assert found is not None
    assert found["permissionDecision"] == "deny"


@pytest.mark.parametrize("value", [{"a": 1.5, "ö": ["x", None, True]}, {"n": 10**20, "f": 1e300}, "text", []])
def test_both_sides_reckon_the_same_digest(value: Any) -> None:
    assert hook.digest_of(json.loads(json.dumps(value))) == digest_of(value)


@pytest.mark.posix("a hook is a command for sh")
@pytest.mark.parametrize(
    ("rules", "given", "code"),
    [
        ({"patterns": [PUSH]}, call("git push"), 0),
        ({"patterns": [PUSH]}, call("ls"), 0),
        ({"patterns": [PUSH]}, {"tool_name": "Bash"}, 2),
        ({"patterns": [PUSH]}, "no call", 2),
        ({}, call("git push"), 2),
        (None, call("git push"), 2),
    ],
)
def test_what_the_hook_cannot_judge_is_blocked(tmp_path: Path, rules: Any, given: Any, code: int) -> None:
    file = tmp_path / "a file's rules"
    if rules is not None:
        file.write_text(json.dumps(rules), encoding="utf-8")
    [entry] = settings_of([PUSH], file)["hooks"]["PreToolUse"]
    command = entry["hooks"][0]["command"]
    ran = subprocess.run(
        command, shell=True, input=json.dumps(given), capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert ran.returncode == code, ran.stderr
    deferred = json.loads(ran.stdout)["hookSpecificOutput"]["permissionDecision"] if ran.stdout else None
    assert deferred == ("defer" if code == 0 and given["tool_input"]["command"] != "ls" else None)
    gone = {**os.environ, "PATH": "/usr/bin:/bin"}
    broken = command.replace(sys.executable, "/nowhere/python")
    assert subprocess.run(broken, shell=True, env=gone, capture_output=True, check=False).returncode == 2


def test_the_settings_are_named_before_what_is_no_option() -> None:
    assert with_settings(["claude", "-p"], [PUSH]) == ["claude", "-p", "--settings", "{settings}"]
    assert with_settings(["claude", "--", "{input}"], [PUSH]) == [
        "claude", "--settings", "{settings}", "--", "{input}",
    ]  # fmt: skip
    assert with_settings(["sh", "-c", "claude --settings {settings}"], [PUSH]) == [
        "sh", "-c", "claude --settings {settings}",
    ]  # fmt: skip
    assert with_settings(["claude"], []) == ["claude"]
    assert rules_of([PUSH]) == {"patterns": [PUSH]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"output": "codex"}, 'ask_before needs output = "claude"'),
        ({"chat_cmd": ["sh", "-c", "claude -p"]}, "chat_cmd runs a shell"),
        ({"chat_cmd": ["claude", "-p", "--settings", "x.json"]}, "chat_cmd has --settings"),
        ({"resume_cmd": ["claude", "--settings=x", "--resume", "{session}"]}, "resume_cmd has --settings"),
        ({"chat_cmd": ["/usr/bin/sudo", "-u", "agent", "claude", "-p"]}, "runs the agent as another user (sudo), who"),
        ({"chat_cmd": ["setpriv", "--reuid=agent", "--", "claude", "-p"]}, "cannot read the settings of ask_before"),
        ({"ask_before": ["Bash(git push"]}, "is no pattern of a tool"),
        ({"ask_before": ["Bash(a\nb)"]}, "is no pattern of a tool"),
        ({"ask_before": ["Bash"] * 65}, "at most 64"),
    ],
)
def test_a_configuration_that_could_not_ask_is_refused(keys: dict[str, Any], said: str) -> None:
    known: dict[str, Any] = {"id": "code", "chat_cmd": ["claude", "-p"], "prompt_via": "stdin", "output": "claude"}
    AgentSection.model_validate({**known, "ask_before": [PUSH, "mcp__github__*", "Edit(.env)", "*"]})
    AgentSection.model_validate(
        {**known, "chat_cmd": ["sh", "-c", "claude --settings {settings}"], "ask_before": [PUSH]}
    )
    AgentSection.model_validate({**known, "chat_cmd": ["setpriv", "--no-new-privs", "claude", "-p"]})
    with pytest.raises(ValueError, match=re.escape(said)):
        AgentSection.model_validate({**known, "ask_before": [PUSH], **keys})
