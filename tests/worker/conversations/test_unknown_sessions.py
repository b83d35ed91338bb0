"""What the real agents print when they are to go on with a session that they do not have; versions of the presets."""

import pytest

from agentbus_worker.conversations.unknown_sessions import lacks_session
from agentbus_worker.formats.stream import EventStream
from agentbus_worker.running.command import Exit, Reason
from agentbus_worker.running.output import Output

SESSION = "11111111-2222-4333-8444-555555555555"
PRINTED = {
    "claude": f"No conversation found with session ID: {SESSION}\n",
    "codex": f"Error: thread/resume: thread/resume failed: no rollout found for thread id {SESSION} (code -32600)\n\n"
    "Stack backtrace:\n   0: <unknown>\n",
    "gemini": "Error resuming session: No previous sessions found for this project.\n",
    "opencode": "\x1b[91m\x1b[1mError: \x1b[0mSession not found\n",
    "qwen": f"No saved session found with ID {SESSION}. Run `qwen --resume` without an ID to choose from existing "
    "sessions.\n",
}


def ended(stderr: str, format_: str, *, code: int = 1, reason: Reason = "exited", stdout: bytes = b"") -> Exit:
    events = EventStream(format_)
    events.feed(stdout)
    none, said = Output(stdout, stdout, len(stdout), ""), stderr.encode()
    return Exit(reason, code, none, Output(said, said, len(said), ""), 1.0, events=events)


@pytest.mark.parametrize("format_", PRINTED)
def test_an_agent_without_the_session_is_known_by_what_it_prints(format_: str) -> None:
    assert lacks_session(ended(PRINTED[format_], format_), format_)
    assert not lacks_session(ended("Error: 401 Invalid API key\n", format_), format_)


@pytest.mark.parametrize("format_", PRINTED)
def test_an_agent_that_went_on_or_was_ended_had_its_session_whatever_it_prints(format_: str) -> None:
    assert not lacks_session(ended(PRINTED[format_], format_, code=0), format_)
    assert not lacks_session(ended(PRINTED[format_], format_, reason="timeout"), format_)
    assert not lacks_session(ended(PRINTED[format_], "claude", stdout=_SAID), "claude")


_SAID = b'{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"Session not found, it says."}]}}\n'
