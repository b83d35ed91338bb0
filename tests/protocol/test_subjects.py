"""Ids and names: what is refused, what is stripped, and how subjects are spelled."""

from collections.abc import Callable

import pytest

from agentbus.errors import InvalidIdError
from agentbus.protocol import ids, subjects
from agentbus.protocol.subjects import TaskKey

VALID_AGENTS = ["a", "0", "-", "_", "code", "Code-2_b", "agent", "agent_", "x" * 64, "-dash"]
INVALID_AGENTS = [
    pytest.param("", id="empty"),
    pytest.param("*", id="star"),
    pytest.param(">", id="greater"),
    pytest.param("a.b", id="two tokens"),
    pytest.param(".", id="dot"),
    pytest.param("a b", id="space"),
    pytest.param(" code", id="leading space"),
    pytest.param("code\n", id="trailing newline"),
    pytest.param("co\nde", id="newline"),
    pytest.param("code\0", id="NUL"),
    pytest.param("cödé", id="letters beyond ASCII"),
    pytest.param("\N{ARABIC-INDIC DIGIT ONE}", id="digits beyond ASCII"),
    pytest.param("\N{CYRILLIC SMALL LETTER A}", id="look-alike"),
    pytest.param("\ud800", id="lone surrogate"),
    pytest.param("a/b", id="slash"),
    pytest.param("$JS", id="dollar"),
    pytest.param("x" * 65, id="65 characters"),
]


@pytest.mark.parametrize("agent", VALID_AGENTS)
def test_an_agent_id_is_accepted_with_and_without_its_prefix_and_comes_back_without(agent: str):
    assert subjects.agent_id(agent) == agent
    assert subjects.agent_id(f"agent-{agent}") == agent
    assert subjects.agent_id(subjects.address(agent)) == agent
    assert subjects.is_agent_id(agent)
    assert subjects.is_agent_id(f"agent-{agent}")


@pytest.mark.parametrize("prefix", ["", "agent-"])
@pytest.mark.parametrize("agent", INVALID_AGENTS)
def test_what_is_not_one_subject_token_is_no_agent_id_in_either_form(agent: str, prefix: str):
    with pytest.raises(InvalidIdError, match="agent id"):
        subjects.agent_id(prefix + agent)
    assert not subjects.is_agent_id(prefix + agent)


def test_only_one_prefix_is_stripped():
    with pytest.raises(InvalidIdError, match="leave out the repeated prefix"):
        subjects.agent_id("agent-agent-code")


@pytest.mark.parametrize("value", [None, 7, True, b"code", ["code"], {"id": "code"}])
def test_only_text_is_an_agent_id(value: object):
    assert not subjects.is_agent_id(value)


def test_an_error_about_an_id_is_short_printable_and_ascii_whatever_the_id_holds():
    with pytest.raises(InvalidIdError) as caught:
        subjects.agent_id("\x1b[31m\ud800ö" + "x" * 100_000)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("agent", VALID_AGENTS)
def test_a_configured_agent_id_stays_as_it_is(agent: str):
    assert subjects.configured_agent_id(agent) == agent


@pytest.mark.parametrize("agent", ["agent-code", "agent-agent-code", "agent-" + "x" * 59, "agent-" + "x" * 64])
def test_a_configured_agent_id_with_the_prefix_is_refused_however_long_it_is(agent: str):
    with pytest.raises(InvalidIdError, match="prefix"):
        subjects.configured_agent_id(agent)


@pytest.mark.parametrize("agent", INVALID_AGENTS)
def test_a_configured_agent_id_is_held_to_the_same_rules(agent: str):
    with pytest.raises(InvalidIdError, match="is not valid"):
        subjects.configured_agent_id(agent)


@pytest.mark.parametrize(
    "task", ["a", "7", "-", "_", "a.b", "a.b.c-d_e", "task-20260518-0001", "x" * 128, "a." * 63 + "a"]
)
def test_a_task_id_may_have_single_dots_inside(task: str):
    assert subjects.task_id(task) == task


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="dot"),
        pytest.param(".a", id="leading dot"),
        pytest.param("a.", id="trailing dot"),
        pytest.param("a..b", id="double dot"),
        pytest.param("a.b..", id="double dot at the end"),
        pytest.param("x" * 129, id="129 characters"),
        pytest.param("x" * 128 + ".", id="128 characters and a dot"),
        pytest.param("a\n", id="trailing newline"),
        pytest.param("a\n..b", id="double dot behind a newline"),
        pytest.param("a b", id="space"),
        pytest.param("*", id="star"),
        pytest.param("a.>", id="greater"),
        pytest.param("é", id="beyond ASCII"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("a/b", id="slash"),
    ],
)
def test_what_could_change_the_shape_of_a_ledger_key_is_no_task_id(task: str):
    with pytest.raises(InvalidIdError, match="task id"):
        subjects.task_id(task)


@pytest.mark.parametrize("name", ["AGENT_TASKS", "agent-code", "x" * 128])
def test_a_stream_or_a_durable_may_be_named_with_one_token(name: str):
    assert subjects.stream_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "a/b", "a\n", "x" * 129, "ü"])
def test_what_does_not_fit_into_an_api_subject_is_no_name_of_a_stream(name: str):
    with pytest.raises(InvalidIdError, match="is not valid"):
        subjects.stream_name(name)


@pytest.mark.parametrize(
    ("made", "spelled"),
    [
        (subjects.tasks("code"), "agent.code.tasks"),
        (subjects.results("main"), "agent.main.results"),
        (subjects.heartbeat("code"), "agent.code.heartbeat"),
        (subjects.dead("code"), "agent.code.dead"),
        (subjects.control("code"), "agent.code.control"),
        (subjects.durable("code"), "agent-code"),
        (subjects.address("code"), "agent-code"),
        (ids.task_msg_id(TaskKey("code", "t.1"), None), "code.t.1"),
        (ids.task_msg_id(TaskKey("code", "t.1"), "n0nce"), "code.t.1.n0nce"),
        (subjects.files_bucket("code"), "AGENT_FILES_code"),
        (subjects.state(TaskKey("code", "t.1")), "$KV.AGENT_STATE.code.t.1"),
        (subjects.states("code"), "$KV.AGENT_STATE.code.>"),
        (subjects.states_of_task("t.1"), "$KV.AGENT_STATE.*.t.1"),
        (subjects.presence("code", "host-1"), "$KV.AGENT_REGISTRY.code.host-1"),
        (subjects.api("STREAM.INFO.X"), "$JS.API.STREAM.INFO.X"),
        (subjects.pull("S", "c"), "$JS.API.CONSUMER.MSG.NEXT.S.c"),
        (subjects.create_consumer("S", "c", "agent.code.tasks"), "$JS.API.CONSUMER.CREATE.S.c.agent.code.tasks"),
        (subjects.last_of("S", "agent.code.tasks"), "$JS.API.DIRECT.GET.S.agent.code.tasks"),
    ],
)
def test_the_names_on_the_bus_are_spelled_as_permissions_and_other_programs_expect_them(made: str, spelled: str):
    assert made == spelled


@pytest.mark.parametrize(
    ("spell", "kind"),
    [
        (subjects.tasks, "tasks"),
        (subjects.results, "results"),
        (subjects.dead, "dead"),
        (subjects.heartbeat, "heartbeat"),
        (subjects.control, "control"),
    ],
)
def test_the_agent_can_be_read_back_from_its_subjects(spell: Callable[[str], str], kind: str):
    assert subjects.agent_of(spell("code"), kind) == "code"


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "agent.code.tasks",
        "agent.code.results.x",
        "x.agent.code.results",
        "agent..results",
        "agent.*.results",
        "agent.>",
        "agents.code.results",
        "agent.co de.results",
        "agent.code.results\n",
        # In subjects ids carry no prefix: nobody reads this inbox.
        "agent.agent-code.results",
    ],
)
def test_what_is_no_inbox_of_an_agent_names_none(subject: str):
    assert subjects.agent_of(subject, "results") is None


@pytest.mark.parametrize(("agent", "task"), [("code", "t"), ("code", "a.b.c"), ("x" * 64, "y" * 128)])
def test_agent_and_task_can_be_read_back_from_a_ledger_key(agent: str, task: str):
    assert subjects.parse_state(subjects.state(TaskKey(agent, task))) == TaskKey(agent, task)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "code.t",
        "$KV.AGENT_STATE.code",
        "$KV.AGENT_STATE.code.",
        "$KV.AGENT_STATE..t",
        "$KV.AGENT_STATE.code.t.",
        "$KV.AGENT_STATE.code..t",
        "$KV.AGENT_STATE.*.t",
        "$KV.AGENT_STATE.code.>",
        "$KV.AGENT_REGISTRY.code.t",
        "$KV.AGENT_STATE.code.t\n",
        "x$KV.AGENT_STATE.code.t",
    ],
)
def test_what_is_no_ledger_key_names_no_task(subject: str):
    assert subjects.parse_state(subject) is None


@pytest.mark.parametrize("subject", [subjects.mcp_task("main", "watch-20261122-x"), subjects.mcp_task("main", "a.b")])
def test_the_record_of_an_mcp_task_is_no_ledger_key(subject: str):
    assert subjects.parse_state(subject) is None


def test_the_record_of_an_mcp_task_can_be_read_back_from_its_key():
    assert subjects.parse_mcp_task(subjects.mcp_task("main", "watch-20261122-x")) == ("main", "watch-20261122-x")
    for subject in (
        subjects.state(TaskKey("main", "t")),
        subjects.mcp_task("main", "a.b"),
        subjects.mcp_task("main", ""),
    ):
        assert subjects.parse_mcp_task(subject) is None
