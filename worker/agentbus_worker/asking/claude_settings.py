"""Writes the settings with which Claude Code asks before it uses a tool: a hook of ours, beside those of the user.

They lie in the temporary folder of the run and are given with `--settings`: no file of the user is touched. Where the
hook does not run, as where hooks are turned off, the same patterns as rules deny what would be asked for. Such a rule
would also deny a call that was approved, so the rules that match that are left out.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentbus.config.agent_commands.ask_before import SETTINGS_PLACEHOLDER
from agentbus.config.private_files import write_private
from agentbus.config.worker_schema import AgentSection
from agentbus.errors import MachineFaultError
from agentbus.protocol.json_codec import Json, object_in
from agentbus_worker.asking import hook
from agentbus_worker.disk.threads import DiskThreads

if TYPE_CHECKING:
    from agentbus_worker.asking.decisions import Decision
    from agentbus_worker.conversations.conversation import Answered

APPROVED_VARIABLE: Final = "AGENTBUS_APPROVED_CALL"
"""Tells a hook of the user that defers calls which one was approved."""
_SETTINGS: Final = "claude-settings.json"
_RULES: Final = "ask-before.json"
_HOOK_S: Final = 60
"""A hook answers in a fraction of a second; on a machine that stands still, it is waited for."""


def with_settings(words: Sequence[str], ask_before: Sequence[str]) -> list[str]:
    """Return the words of a command with the option that names the settings, where something is to be asked."""
    words = list(words)
    if not ask_before or any(SETTINGS_PLACEHOLDER in word for word in words):
        return words
    end = words.index("--") if "--" in words else len(words)  # what is behind it is no option
    return [*words[:end], "--settings", SETTINGS_PLACEHOLDER, *words[end:]]


def environment_of(answered: "Answered | None") -> Mapping[str, str]:
    """Return what a run finds in its environment of the call that was approved for it."""
    if answered is None or answered.was_used or not answered.decision.approved:
        return {}
    return {APPROVED_VARIABLE: answered.decision.call.call.replace("\0", "")}


async def write_settings(
    folder: Path,
    agent: AgentSection,
    answered: "Answered | None",
    *,
    threads: DiskThreads,
    stop: asyncio.Future[None],
) -> Path | None:
    """Write the settings of a run into its temporary folder and return their path; None where nothing is to be asked.

    Args:
        stop: once this is done, a disk that does not answer is not waited for.

    Raises:
        MachineFaultError: they cannot be written, or the disk does not answer.
    """
    ask_before = agent.ask_before
    if not ask_before:
        return None
    settings, rules = folder / _SETTINGS, folder / _RULES

    def write() -> None:
        write_private(rules, json.dumps(rules_of(ask_before, answered)))
        decision = answered.decision if answered is not None else None
        write_private(settings, json.dumps(settings_of(ask_before, rules, decision)))

    try:
        await threads.run(write, stop=stop)
    except OSError as error:
        raise MachineFaultError(
            f"the settings of the agent cannot be written to {folder}: {error.strerror or error}"
        ) from None
    return settings


def rules_of(ask_before: Sequence[str], answered: "Answered | None" = None) -> dict[str, Json]:
    """Return what the hook decides by; see `hook.decision`."""
    rules: dict[str, Json] = {"patterns": list(ask_before)}
    if answered is not None:
        decision = answered.decision
        call = {"tool": decision.call.tool, "digest": decision.call.arguments_digest, "said": decision.said}
        rules |= {"approved": {**call, "used": str(answered.used)}} if decision.approved else {"denied": call}
    return rules


def settings_of(ask_before: Sequence[str], rules: Path, decision: "Decision | None" = None) -> dict[str, Json]:
    """Return the settings: a hook that is given `rules`, and rules of Claude Code itself, for where it does not run."""
    # Without our packages and those of the environment: it starts in a tenth of the time.
    command = shlex.join([sys.executable, "-I", "-S", hook.__file__, str(rules)])
    # Any other exit status than 2 would let the call through.
    entry = {"type": "command", "command": f"{command} || exit 2", "timeout": _HOOK_S}
    asks = [pattern for pattern in ask_before if not _lets_through(pattern, decision)]
    return {"hooks": {"PreToolUse": [{"matcher": "*", "hooks": [entry]}]}, "permissions": {"ask": asks}}


def _lets_through(pattern: str, decision: "Decision | None") -> bool:
    """Whether a pattern matches a call that was approved."""
    if decision is None or not decision.approved:
        return False
    call = decision.call
    whole = call.arguments_bytes is None
    return not whole or hook.matches(pattern, call.tool, object_in(call.arguments), call.folder or "/")
