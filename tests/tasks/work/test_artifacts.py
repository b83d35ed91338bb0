"""The files that a run has left: listed, read and saved, and what an agent could try with their names and content."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.errors import CorruptFileError, FileMissingError, NotSettledError, WorkError
from agentbus.protocol.work.results import Artifact, Changes
from support.left_work import artifact, content_of, settle_with

FILES = {"report.txt": b"all is well\n", "plots/one.bin": bytes(range(256)) * 10, "empty": b""}


async def test_files_are_listed_read_and_saved_as_they_were_left(coordinator: Coordinator, tmp_path: Path) -> None:
    changes = Changes("a" * 40, "agentbus/job-1", "b" * 40)
    await settle_with(coordinator, FILES, changes)
    task = coordinator.task("job-1")
    assert [(one.name, one.bytes) for one in await task.artifacts()] == [(n, len(c)) for n, c in FILES.items()]
    assert await task.changes() == changes
    assert b"".join([piece async for piece in task.artifact("plots/one.bin")]) == FILES["plots/one.bin"]
    for _ in range(2):  # what is there already stays
        paths = await task.save_artifacts(tmp_path / "to")
        assert paths == [tmp_path / "to" / name for name in FILES]
    assert {name: content for name, (_, content) in content_of(tmp_path / "to").items()} == FILES
    assert await task.save_artifacts(tmp_path / "one", "report.txt") == [tmp_path / "one" / "report.txt"]
    with pytest.raises(WorkError, match=r"has left no file '\.\./x'; it has left: report.txt, plots/one.bin, empty"):
        await task.save_artifacts(tmp_path / "one", "../x")


async def test_a_task_without_a_result_or_without_files_has_none(coordinator: Coordinator, tmp_path: Path) -> None:
    await settle_with(coordinator, {})
    assert (await coordinator.task("job-1").artifacts(), await coordinator.task("job-1").changes()) == ((), None)
    await coordinator.publish("code", "x", task_id="job-2")
    with pytest.raises(NotSettledError, match="job-2 is queued; its work comes home with its result"):
        await coordinator.task("job-2").artifacts()


DESCRIBED: dict[str, Callable[[Artifact], Artifact]] = {
    "another content": lambda one: replace(one, sha256="0" * 64),
    "more": lambda one: replace(one, bytes=one.bytes - 1),
    "less": lambda one: replace(one, bytes=one.bytes + 1),
}


async def test_content_that_is_not_what_the_result_says_leaves_no_file(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    files = dict.fromkeys(DESCRIBED, b"some content")
    as_described = {name: change(artifact(name, files[name])) for name, change in DESCRIBED.items()}
    await settle_with(coordinator, files, as_described=as_described)
    for name in files:
        with pytest.raises(CorruptFileError, match="is not what its result says"):
            await coordinator.task("job-1").save_artifacts(tmp_path / "to", name)
    assert list((tmp_path / "to").iterdir()) == []


async def test_a_file_that_is_not_there_any_more_is_said(coordinator: Coordinator, tmp_path: Path) -> None:
    gone = artifact("a", b"x").to_json()
    await settle_with(coordinator, {}, artifacts=[gone])
    with pytest.raises(FileMissingError, match="files are kept for 38 days"):
        await coordinator.task("job-1").save_artifacts(tmp_path / "to")


@pytest.mark.posix("links")
async def test_nothing_outside_the_folder_is_touched_and_nothing_in_it_is_replaced(
    coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    (home / "secret").write_bytes(b"mine")
    to = home / "to"
    to.mkdir()
    (to / "plots").symlink_to(home)
    (to / "empty").symlink_to(home / "secret")
    (to / "report.txt").write_bytes(b"another")
    await settle_with(coordinator, {**FILES, "secret": b"theirs"})
    before = content_of(home)
    for name, why in (
        ("plots/one.bin", "plots is a link, or no folder"),
        ("empty", "empty exists, and is another file"),
        ("report.txt", "report.txt exists, and is another file; move it away, or save into another folder"),
    ):
        with pytest.raises(WorkError, match=why):
            await coordinator.task("job-1").save_artifacts(to, name)
    assert content_of(home) == before
    with pytest.raises(WorkError, match=r"cannot make the folder .*a file is in the place of a folder"):
        await coordinator.task("job-1").save_artifacts(to / "report.txt" / "x", "secret")
    assert content_of(home) == before
