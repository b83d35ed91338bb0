"""The fields `artifacts` and `changes` of a result: what is read of them, within which bounds."""

from typing import Any

import pytest

from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.work.results import (
    BINARY,
    MAX_ARTIFACTS,
    MAX_LEFT_OUT,
    MAX_LISTED_BYTES,
    MAX_TITLE_CHARS,
    MAX_TITLES,
    Artifact,
    Changes,
    Commit,
    LeftOut,
    OtherBranch,
    artifacts_in,
    changes_in,
    left_out_in,
    within,
)

DIGEST, COMMIT = "a" * 64, "b" * 40
ONE = Artifact("report/a.txt", 3, DIGEST, "text/plain; charset=utf-8", "job-1.nonce.0")


def test_what_was_written_is_read_again() -> None:
    changes = Changes(
        base=COMMIT,
        branch="agentbus/job-1",
        head="c" * 40,
        commits=2,
        files=3,
        insertions=4,
        deletions=5,
        base_ref="origin/main",
        log=(Commit("c" * 40, "A title"),),
        uncommitted=True,
        left_out=(LeftOut(".env", "it looks like a secret"),),
        left_out_count=3,
        branches=(OtherBranch("fix/it", "d" * 40, 2),),
        secrets=(".env",),
    )
    result = decode(encode({"artifacts": [ONE.to_json()], "changes": changes.to_json()}))
    assert artifacts_in(result) == (ONE,)
    assert changes_in(result) == changes
    bare = Changes(COMMIT, "x", COMMIT)
    assert changes_in({"changes": bare.to_json()}) == bare


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": name} for name in ("../a", "/a", ".git/config", "a\nb", "nul", 7, None)),
        *({"object": name} for name in ("", "a b", "a\n", 7, "x" * 401)),
        *({"sha256": name} for name in ("", DIGEST + "0", 7)),
        *({"bytes": size} for size in (-1, "3", True, None)),
    ],
)
def test_an_artifact_that_cannot_be_used_is_left_out_and_the_others_stay(wrong: dict[str, Any]) -> None:
    other = {**ONE.to_json(), "name": "other"}
    assert [one.name for one in artifacts_in({"artifacts": [{**ONE.to_json(), **wrong}, 7, other]})] == ["other"]


@pytest.mark.parametrize("media_type", ["text/html\r\nX: y", "nonsense", 7, None, "a/" + "b" * 100, "text/plain; x=y"])
def test_a_media_type_that_is_none_is_taken_as_unknown(media_type: Any) -> None:
    [found] = artifacts_in({"artifacts": [{**ONE.to_json(), "media_type": media_type}]})
    assert found.media_type == BINARY


def test_a_result_lists_as_much_as_it_has_room_for_and_a_reader_takes_no_more() -> None:
    many = [Artifact(f"{number:04}", 1, DIGEST, "text/plain", f"o.{number}") for number in range(MAX_ARTIFACTS + 5)]
    listed, left = within(many)
    assert listed + left == many
    assert len(encode([one.to_json() for one in listed])) <= MAX_LISTED_BYTES + 1
    assert 0 < len(listed) <= MAX_ARTIFACTS
    assert len(artifacts_in({"artifacts": [one.to_json() for one in many]})) == MAX_ARTIFACTS
    assert [one.name for one in artifacts_in({"artifacts": [many[0].to_json()] * 3})] == ["0000"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"base": value} for value in ("", "main", "-x", COMMIT[:39], COMMIT + "\n", 7)),
        *({"branch": value} for value in ("", "-x", "a..b", "a\nb", 7)),
        {"head": "HEAD"},
    ],
)
def test_changes_that_name_no_commits_are_no_changes(wrong: dict[str, Any]) -> None:
    assert changes_in({"changes": {**Changes(COMMIT, "x", COMMIT).to_json(), **wrong}}) is None


def test_what_an_agent_can_make_long_is_bounded() -> None:
    said = {
        **Changes(COMMIT, "x", COMMIT).to_json(),
        "log": [{"id": COMMIT, "title": "t" * 9_999}] * 99,
        "left_out": [{"name": "n" * 9_999, "why": "w" * 9_999}] * 99,
        "commits": -1,
        "files": "many",
    }
    found = changes_in({"changes": said})
    assert found is not None
    assert (len(found.log), len(found.log[0].title)) == (MAX_TITLES, MAX_TITLE_CHARS)
    assert (len(found.left_out), found.left_out_count) == (MAX_LEFT_OUT, MAX_LEFT_OUT)
    assert (found.commits, found.files) == (0, 0)
    assert len(encode(found.to_json())) < MAX_LISTED_BYTES + 4_096
    assert left_out_in({"left_out": [7, {"name": ""}, {"name": "a"}]}) == (LeftOut("a", ""),)


@pytest.mark.parametrize("nothing", [{}, {"artifacts": 7, "changes": 7}, {"artifacts": None, "changes": []}])
def test_a_result_of_an_earlier_worker_has_neither(nothing: dict[str, Any]) -> None:
    assert (artifacts_in(nothing), changes_in(nothing)) == ((), None)
