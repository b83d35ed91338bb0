"""Files that are replaced as a whole, and private ones: what is left when writing fails, and who may read them."""

import errno
import os
import re
import stat
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentbus.config.atomic_files import replace_file, sync_to_disk, why_not_written
from agentbus.config.private_files import open_private, private_folder, write_private
from agentbus.errors import ConfigError
from support.file_faults import dies_before_replacing, read_only

KEPT = None
"""The mode and the owner of the file that is replaced."""
DIES = "from agentbus.config.atomic_files import replace_file; import sys\n"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(mask: int) -> Generator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# -- whole or not at all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [KEPT, 0o600, 0o644], ids=["kept", "private", "public"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_process_that_dies_before_it_replaces_a_file_leaves_the_old_one_whole(
    tmp_path: Path, mode: int | None, durable: bool
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    dies_before_replacing(f"{DIES}replace_file(Path(sys.argv[1]), b'new', mode={mode}, durable={durable})", path)
    assert path.read_bytes() == b"old"
    [part] = [other for other in tmp_path.iterdir() if other != path]
    assert part.read_bytes() == b"new"
    replace_file(path, b"newer", mode=mode, part=part)
    assert path.read_bytes() == b"newer"
    assert [*tmp_path.iterdir()] == [path], "the next writer has taken what the dead one left"


def test_a_process_that_dies_before_it_makes_a_file_makes_none(tmp_path: Path):
    path = tmp_path / "file"
    dies_before_replacing(f"{DIES}replace_file(Path(sys.argv[1]), b'new')", path)
    assert not path.exists()


@pytest.mark.parametrize("mode", [KEPT, 0o600, 0o644], ids=["kept", "private", "public"])
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None, there: bool, step: str
):
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new", mode=mode)
    assert [other.read_bytes() for other in tmp_path.iterdir()] == ([b"old"] if there else [])
    with pytest.raises(
        ConfigError, match=re.escape(f"cannot write {path}: No space left on device; free space on its")
    ):
        write_private(path, "new", replace=True)


@pytest.mark.posix("elsewhere a file that is open cannot be replaced")
def test_a_reader_sees_one_content_or_the_other_and_never_a_part(tmp_path: Path):
    path, contents = tmp_path / "file", [b"a" * 100_000, b"b" * 50_000]
    replace_file(path, contents[0], durable=False)
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            replace_file(path, contents[number % 2], durable=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not done.is_set():
            assert path.read_bytes() in contents
    finally:
        writer.join()


@pytest.mark.posix("a link needs a privilege elsewhere")
def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path):
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".file.{os.getpid()}.part").symlink_to(victim)
    replace_file(path, b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"mine")
    assert not path.is_symlink()


# -- durable or not ---------------------------------------------------------------------------------------------


def test_only_a_durable_file_costs_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    replace_file(tmp_path / "file", b"x", durable=False)
    assert synced == []
    replace_file(tmp_path / "file", b"y")
    assert len(synced) == (2 if os.name == "posix" else 1), "the file, and on POSIX its name in the folder"


def test_a_file_that_has_been_removed_needs_not_survive_the_machine(tmp_path: Path):
    sync_to_disk(tmp_path / "gone" / "file")
    sync_to_disk(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"x")
    sync_to_disk(tmp_path / "file")


# -- mode and owner ---------------------------------------------------------------------------------------------


@pytest.mark.posix("permission bits")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_that_was_asked_for_whatever_the_umask(tmp_path: Path, mask: int):
    path, shared = tmp_path / "file", tmp_path / "shared"
    shared.write_bytes(b"old")
    shared.chmod(0o664)
    with umask(mask):
        for mode, wanted in ((0o644, 0o644), (0o600, 0o600), (KEPT, 0o600)):
            replace_file(path, b"x", mode=mode)
            assert mode_of(path) == wanted
        replace_file(shared, b"new", mode=KEPT)
        replace_file(tmp_path / "made", b"new", mode=KEPT)
    assert mode_of(shared) == 0o664
    assert mode_of(tmp_path / "made") == 0o666 & ~mask


@pytest.mark.posix("owners of files")
def test_a_file_that_is_kept_keeps_its_owner(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    path.chmod(0o640)
    replace_file(path, b"new", mode=KEPT)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode), path.read_bytes()) == (12345, 23456, 0o640, b"new")
    replace_file(path, b"mine")
    assert path.stat().st_uid == 0, "others are not given a file that is made anew"


@pytest.mark.posix("permission bits")
def test_a_private_file_is_readable_by_its_owner_alone_while_it_is_written(tmp_path: Path):
    path = tmp_path / "file"
    with umask(0), open_private(path) as file:
        assert mode_of(path) == 0o600
        file.write(b"secret")
    with umask(0):
        private_folder(tmp_path / "a" / "b")
    assert mode_of(tmp_path / "a" / "b") == 0o700


def test_a_private_file_must_be_new_unless_it_may_be_truncated(tmp_path: Path):
    path = tmp_path / "file"
    with open_private(path) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError):
        open_private(path)
    assert path.read_bytes() == b"first"
    with open_private(path, truncate=True) as file:
        file.write(b"2")
    assert path.read_bytes() == b"2"


def test_a_private_file_that_is_there_is_left_as_it_is(tmp_path: Path):
    path = tmp_path / "file"
    write_private(path, "first\n")
    with pytest.raises(ConfigError, match=re.escape(f"{path} exists already; it was left as it is")):
        write_private(path, "second")
    assert path.read_bytes() == b"first\n"
    write_private(path, b"second\n", replace=True)
    assert path.read_bytes() == b"second\n"


# -- what a person is told --------------------------------------------------------------------------------------


@pytest.mark.posix("permissions of POSIX")
def test_a_folder_that_may_not_be_written_to_is_named_with_the_fix():
    with read_only("file") as folder:
        for path in (folder / "file", folder / "new"):
            with pytest.raises(ConfigError) as caught:
                write_private(path, "new", replace=True)
            assert str(caught.value) == (
                f"cannot write {path}: Permission denied; make its folder writable for this user"
            )
        with pytest.raises(ConfigError, match=f"cannot make the folder {folder}/below: Permission denied; make its"):
            private_folder(folder / "below")
        assert (folder / "file").read_bytes() == b"old"
        assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_file_in_the_place_of_a_folder_is_named_with_the_fix(tmp_path: Path, below: str):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=re.escape(f"cannot make the folder {tmp_path / below}: ") + ".*; move it away"
    ):
        private_folder(tmp_path / below)


def test_an_error_without_a_known_fix_is_told_as_it_is():
    assert why_not_written(OSError("odd")) == "odd"
    assert why_not_written(OSError(errno.EIO, "Input/output error")) == "Input/output error"
