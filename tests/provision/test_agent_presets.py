"""The presets of agent commands, compared with the recorded help of those commands.

The files in recorded/ are the output of `claude --help`, `codex exec --help`, `gemini --help`, `opencode run --help`
and `hermes chat --help` in the versions that the presets name.
"""

import itertools
import re
from pathlib import Path

import click
import pytest

from agentbus.cli.machine.join import worker_init
from agentbus.config.loading import load_worker
from agentbus.config.toml_text import toml_text
from agentbus.config.worker_schema import AgentSection
from agentbus.provision.agent_presets import PRESETS
from agentbus.provision.join import custom_command, preset_command
from support.harness import ROOT

RECORDED = ROOT / "tests" / "recorded"
SUBCOMMANDS = {
    "codex": ["exec"], "opencode": ["run"], "hermes": ["chat"], "opencode-acp": ["acp"], "hermes-acp": ["acp"]
}  # fmt: skip
PROGRAMS = {"claude-acp": "claude-agent-acp", "codex-acp": "codex-acp", "hermes-acp": "hermes"} | {
    f"{name}-acp": name for name in ("gemini", "opencode", "qwen")
}
DANGEROUS = re.compile(r"--(dangerously.*|allow-dangerously.*|yolo|auto|accept-hooks|force|full-auto|approve-for-me)")


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


def described(name: str, option: str) -> str:
    """Read what the help of a command says about an option; empty if it lists no such option."""
    start = rf"^ +(?:-\w+(?: [A-Z]+)?, )?(?:--[\w-]+, )?{re.escape(option)}(?=[ ,=\n]|$)"
    found = re.search(rf"{start}.*?(?=^ +-|\Z)", recorded(name), re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


@pytest.mark.parametrize("name", PRESETS)
def test_the_help_of_the_agent_lists_every_option_of_its_preset(name: str) -> None:
    words = list(PRESETS[name].command)
    program = PROGRAMS.get(name, name)
    assert words[: 1 + len(SUBCOMMANDS.get(name, []))] == [program, *SUBCOMMANDS.get(name, [])]
    options = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    assert [option for option in options if not described(program, option)] == []
    for option, value in itertools.pairwise(words):
        text = described(program, option) if option.startswith("--") else ""
        choices = re.search(r"(?:choices|possible values): ([^\])]+)", text)
        if choices and not value.startswith("-"):
            assert value in re.findall(r"[\w-]+", choices[1]), f"{option} {value}"


def test_the_command_takes_every_preset() -> None:
    [option] = [option for option in worker_init.params if option.name == "preset"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == (*PRESETS, "custom")  # click 8.1 keeps the list that it was given


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_approves_actions(name: str) -> None:
    assert [word for word in PRESETS[name].command if DANGEROUS.fullmatch(word.partition("=")[0])] == []


@pytest.mark.parametrize("name", PRESETS)
def test_the_prompt_of_a_preset_cannot_be_parsed_as_an_option(name: str) -> None:
    preset = PRESETS[name]
    with_prompt = [word for word in preset.command if "{input}" in word]
    if preset.prompt_via == "stdin":
        assert with_prompt == []
    else:
        [word] = with_prompt
        option, equals, value = word.partition("=")
        assert (option[:2], equals, value) == ("--", "=", "{input}")


def test_the_agents_document_standard_input_as_the_presets_use_it() -> None:
    assert "if `-` is used" in recorded("codex")
    assert PRESETS["codex"].command[-1] == "-"
    assert "Appended to input on stdin (if any)" in recorded("gemini")
    assert "Print response and exit (useful for pipes)" in " ".join(recorded("claude").split())


@pytest.mark.parametrize("name", PRESETS)
def test_a_worker_accepts_the_preset(name: str, tmp_path: Path) -> None:
    command = preset_command(name)
    path = tmp_path / "agentbus.toml"
    agent = {"id": "code", "chat_cmd": list(command.words), "prompt_via": command.prompt_via, "output": command.output}
    agent |= {"acp_mode": command.acp_mode} if command.acp_mode else {}
    path.write_text(toml_text({"agent": agent, "nats": {"url": "nats://127.0.0.1:1"}}), encoding="utf-8")
    config, warnings = load_worker(path)
    assert (config.agent.chat_cmd, warnings) == (PRESETS[name].command, [])


def test_a_worker_goes_on_in_an_interrupted_session_where_the_preset_of_its_agent_says_so() -> None:
    said = {name: preset.resumes_interrupted for name, preset in PRESETS.items()}
    assert [name for name, resumes in said.items() if resumes] == ["claude"], "the others were not tried"
    for name, preset in PRESETS.items():
        keys = {"id": "code", "chat_cmd": preset.command, "prompt_via": preset.prompt_via, "output": preset.output}
        agent = AgentSection.model_validate({**keys, "resume_cmd": preset.resume})
        assert agent.resumes_interrupted is said[name]


@pytest.mark.parametrize(
    ("text", "via"),
    [("my-agent --once {input}", "argv"), ("my-agent --file={input_file}", "file"), ("my-agent -", "stdin")],
)
def test_a_custom_command_gets_the_prompt_at_its_placeholder(text: str, via: str) -> None:
    assert custom_command(text).prompt_via == via
