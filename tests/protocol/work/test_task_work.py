"""The fields `work` and `files` of a task: what is read of them, what is refused, and what they change."""

from typing import Any

import pytest

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import queued
from agentbus.protocol.messages import Task, decode_task, new_task
from agentbus.protocol.work.task_work import (
    MAX_FILES,
    SentFile,
    SentObject,
    Work,
    files_of,
    ref_fault,
    with_work,
    work_of,
)

PLAIN = new_task(to="code", content="x", task_type="test", task_id="job-1").to_json()
DIGEST = "a" * 64
FILE = {"name": "a.txt", "bytes": 3, "sha256": DIGEST, "object": DIGEST}


def with_fields(**fields: Any) -> Task:
    return decode_task(encode({**PLAIN, **fields}))


def test_what_was_written_is_read_again_beside_what_else_the_task_needs() -> None:
    work = Work(base="origin/main", branch="fix/1", bundle=SentObject(bytes=9, sha256=DIGEST, object=DIGEST))
    files = (SentFile.model_validate(FILE), SentFile.model_validate({**FILE, "name": "sub/b"}))
    fields = with_work({**PLAIN, "needs": ["continue"], "continue": {"task": "job-0"}}, work, files)
    task = decode_task(encode(fields))
    extra = task.model_extra or {}
    assert extra["needs"] == ["continue", "work", "files"]
    assert work_of(extra) == work
    assert files_of(extra) == files
    assert queued(task, "main").in_second_form
    assert with_work(PLAIN, None, ()) == PLAIN


def test_without_being_needed_the_fields_say_nothing_and_change_nothing() -> None:
    plain = decode_task(encode(PLAIN))
    other = with_fields(work=7, files={"mine": True})
    assert (work_of(other.model_extra or {}), files_of(other.model_extra or {})) == (None, ())
    assert other.digest() == plain.digest()


def test_each_part_is_a_part_of_what_the_task_is_but_for_where_objects_lie() -> None:
    def digest(work: Any, files: Any) -> str:
        return with_fields(needs=["files", "work"], work=work, files=files).digest()

    bundle = {"bytes": 9, "sha256": DIGEST, "object": "one"}
    work = {"base": "main", "branch": "b", "bundle": bundle}
    same = digest(work, [FILE])
    assert digest({**work, "bundle": {**bundle, "object": "two"}}, [{**FILE, "object": "other"}]) == same
    others = [
        digest({**work, "base": "dev"}, [FILE]),
        digest({**work, "branch": "c"}, [FILE]),
        digest({**work, "bundle": {**bundle, "sha256": "b" * 64}}, [FILE]),
        digest(work, [{**FILE, "name": "b.txt"}]),
        digest(work, [{**FILE, "sha256": "b" * 64}]),
        digest(work, []),
    ]
    assert len({same, *others}) == len(others) + 1


@pytest.mark.parametrize(
    "files",
    [
        *(None, 7, [], [7], {"name": "a"}, [FILE, FILE], [FILE] * (MAX_FILES + 1)),
        *([{**FILE, "name": name}] for name in ("../a", "/a", ".git/config", "a\nb", "", 7)),
        *([{**FILE, "sha256": value}] for value in ("x", None, DIGEST.upper())),
        *([{**FILE, "object": value}] for value in ("", "a b", "*", ">", "a/b", "x" * 300)),
        *([{**FILE, "bytes": value}] for value in (-1, 1 << 60, "3", 1 << 40)),
        [{**FILE, "name": "a"}, {**FILE, "name": "A"}],
    ],
)
def test_files_that_could_be_laid_elsewhere_or_without_bound_are_refused(files: Any) -> None:
    with pytest.raises(MessageError):
        files_of({"needs": ["files"], "files": files})


@pytest.mark.parametrize("name", ["main", "origin/main", "v1.2.3", "a" * 40, "feature/ä", "user@host", "HEAD"])
def test_names_of_branches_tags_and_commits_are_taken(name: str) -> None:
    assert ref_fault(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "-x",
            "--upload-pack=touch",
            "a b",
            "a..b",
            "main~3",
            "HEAD^",
            ":/x",
            "a:b",
            "@{-1}",
            "@",
            "a@{1}",
            "a\nb",
        ),
        *("a//b", "/a", "a/", ".a", "a/.b", "a.lock", "a.lock/b", "a\\b", "$(id)", "`id`", "a;b", "x" * 251, "a*"),
    ],
)
def test_a_name_that_git_would_take_for_more_is_refused(name: str) -> None:
    assert ref_fault(name)
    for field in ("base", "branch"):
        with pytest.raises(MessageError, match="work"):
            work_of({"needs": ["work"], "work": {field: name}})
