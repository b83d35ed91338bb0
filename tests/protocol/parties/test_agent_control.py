"""What operators ask of agents: the keys, and what is read of them."""

import pytest

from agentbus.protocol.parties import agent_control
from agentbus.protocol.parties.control_entry import Asked, OperatorPause, Resumed, read_asked

PAUSE = OperatorPause(by="main", reason="the key is being replaced", since="2026-05-18T00:00:00+00:00")


def test_a_pause_and_its_end_are_read_as_they_were_written():
    assert read_asked(Asked(paused=PAUSE).encoded(), {}) == Asked(paused=PAUSE)
    resumed = Asked(resumed=Resumed(by="main", since="2026-05-18T00:00:00+00:00"))
    assert read_asked(resumed.encoded(), {}) == resumed
    assert agent_control.agent_of_key(agent_control.key("code")) == "code"


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (Asked(paused=PAUSE).encoded(), {"KV-Operation": "DEL"}),
        (b"", {"KV-Operation": "PURGE"}),
        (b"{}", {}),
        (b'{"paused": null}', {}),
        (b'{"paused": true}', {}),
        (b'{"paused": {"by": "main"}}', {}),
        (b'{"paused": {"by": "%s", "since": ""}}' % (b"x" * 200), {}),
        (b'{"paused": {"by": "main", "since": "", "reason": "%s"}}' % (b"x" * 500), {}),
        (b"[1]", {}),
        (b"\xff", {}),
        (b"", {}),
    ],
)
def test_what_is_not_valid_asks_for_nothing(data: bytes, headers: dict[str, str]):
    assert read_asked(data, headers) == Asked()


@pytest.mark.parametrize("subject", ["$KV.AGENT_CONTROL.", "$KV.AGENT_CONTROL.a.b", "$KV.AGENT_STATE.code", "code"])
def test_other_subjects_name_no_agent(subject: str):
    assert agent_control.agent_of_key(subject) is None
