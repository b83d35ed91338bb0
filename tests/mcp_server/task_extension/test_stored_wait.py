"""The states in the records of MCP tasks keep their format: servers of other versions read them too."""

from typing import Any

import pytest

from agentbus_mcp.operations.watch import WatchRequest
from agentbus_mcp.replies.budget import ResponseDetail
from agentbus_mcp.task_extension.stored_wait import StoredWait

WATCH: dict[str, Any] = {
    "watch": {
        "task_ids": ["t1", "t2"],
        "until": "any",
        "timeout_s": 60.0,
        "agent": "code",
        "room": {"format": "detailed"},
    },
    "inbox": "main",
    "elicits": True,
    "deadline": 1770000000.5,
}
INBOX: dict[str, Any] = {
    "watch": {"task_ids": [], "until": "all", "timeout_s": 25.0, "cursor": 42, "room": {"format": "concise"}},
    "inbox": "main",
    "elicits": False,
}
PUBLICATION: dict[str, Any] = {
    "watch": {"task_ids": ["t-code", "t-doc"], "until": "all", "timeout_s": 25.0, "room": {"format": "concise"}},
    "inbox": "main",
    "elicits": True,
    "publication": {
        "note": "no worker of code is alive now",
        "published": [
            {
                "agent": "code",
                "task_id": "t-code",
                "state": "queued",
                "known": False,
                "online": False,
                "waiting": 3,
            },
            {"agent": "doc", "task_id": "t-doc", "state": "working", "known": True},
        ],
        "failed": [{"agent": "ops", "task_id": "t-ops", "error": "refused"}],
        "next": {"tool": "watch_results", "arguments": {"task_ids": ["t-code", "t-doc"]}},
    },
}
"""States as the server of commit 494a9a9 stored them."""


@pytest.mark.parametrize("recorded", [WATCH, INBOX, PUBLICATION], ids=["watch", "inbox", "publication"])
def test_a_recorded_state_is_read_and_written_unchanged(recorded: dict[str, Any]) -> None:
    assert StoredWait.from_state(recorded).to_state() == recorded


def test_a_new_state_has_the_recorded_form() -> None:
    request = WatchRequest(["t1", "t2"], "any", 60.0, None, "code")
    wait = StoredWait.of_watch(request, ResponseDetail("detailed"), inbox="main", elicits=True, deadline=1770000000.5)
    assert wait.to_state() == WATCH
    assert (wait.request, wait.detail) == (request, ResponseDetail("detailed"))


def test_the_published_tasks_are_looked_up_with_their_agents() -> None:
    assert StoredWait.from_state(PUBLICATION).task_names == ["code/t-code", "doc/t-doc"]


def test_names_of_tasks_stand_beside_the_ids_that_other_versions_read() -> None:
    request = WatchRequest(["code/t1", "t2"])
    wait = StoredWait.of_watch(request, ResponseDetail(), inbox="main", elicits=True, deadline=None)
    state = wait.to_state()
    assert (state["watch"]["task_ids"], state["watch"]["names"]) == (["t1", "t2"], ["code/t1", "t2"])
    assert StoredWait.from_state(state).request == request
