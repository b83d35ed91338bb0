"""The records of the sessions of a place, and their locks."""

from pathlib import Path

import pytest

from agentbus_worker.conversations.sessions import DAY_S, Session, Sessions
from agentbus_worker.formats.reading import Totals


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def session(name: str, folder: Path, *, ours: bool = True) -> Session:
    return Session(name, "claude", "main", "job-1", "run-1", str(folder), ours, totals=Totals(0.5, 10, 2, 3))


def test_a_session_is_found_again_and_one_process_at_a_time_has_it(tmp_path: Path) -> None:
    one, other = Sessions(tmp_path / "conversations"), Sessions(tmp_path / "conversations")
    lock = one.take("s-1")
    assert lock is not None
    one.write(session("s-1", tmp_path))
    found = other.read("s-1")
    assert found is not None
    assert (found.owner, found.run_id, found.totals) == ("main", "run-1", Totals(0.5, 10, 2, 3))
    assert other.take("s-1") is None
    lock.release()
    again = other.take("s-1")
    assert again is not None
    again.release()
    assert other.read("s-2") is None


def test_a_session_and_its_folder_go_together_after_their_time_unless_they_are_in_use(tmp_path: Path) -> None:
    clock = Clock()
    sessions = Sessions(tmp_path / "conversations", days=14, clock=clock)
    folders = {name: tmp_path / name for name in ("old", "new", "kept", "used", "shared")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("old", "used", "shared"):
        sessions.write(session(name, folders[name]))
    sessions.write(session("kept", folders["kept"], ours=False))
    clock.now += 10 * DAY_S
    sessions.write(session("new", folders["new"]))
    sessions.write(session("shares", folders["shared"]))
    lock = sessions.take("used")
    assert lock is not None
    clock.now += 5 * DAY_S
    sessions.remove_old()
    assert [name for name in folders if folders[name].exists()] == ["new", "kept", "used", "shared"]
    assert [name for name in folders if sessions.read(name) is not None] == ["new", "used"]
    lock.release()
    sessions.remove_old()
    assert not folders["used"].exists()
    left = {path.suffix for path in (tmp_path / "conversations").iterdir()}
    assert left == {"", ".json"}, "no lock of a session is left, only that of all"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"id": "s-1"}', b"[" * 100_000, b'{"id": 7, "kind": null}']
)
def test_a_record_that_no_worker_has_written_is_none_and_is_removed(tmp_path: Path, content: bytes) -> None:
    sessions = Sessions(tmp_path / "conversations")
    sessions.write(session("s-1", tmp_path / "folder"))
    [path] = (tmp_path / "conversations").glob("*.json")
    path.write_bytes(content)
    assert sessions.read("s-1") is None
    sessions.remove_old()
    assert not path.exists()


def test_a_record_counts_for_the_session_that_it_names_alone(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "conversations")
    sessions.write(session("s-1", tmp_path))
    [path] = (tmp_path / "conversations").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"s-1"', b'"-rf"'))
    assert sessions.read("s-1") is None
