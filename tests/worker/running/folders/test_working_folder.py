"""The working folder of a task: it goes with the task, whatever its command has left in it."""

import os
from pathlib import Path

import pytest

from agentbus.errors import CommandError
from agentbus_worker.running.folders.working_folder import remove_tree, working_folder
from support.file_faults import as_no_root

_NOBODY = 65534


def written(folder: Path, *, mode: int) -> Path:
    """A tree as package managers leave it: folders of this mode, with files that may not be written to."""
    (folder / "cache" / "module@v1").mkdir(parents=True)
    (folder / "cache" / "module@v1" / "file").write_text("x", encoding="utf-8")
    (folder / "cache" / "module@v1" / "file").chmod(0o444)
    for path in (folder / "cache" / "module@v1", folder / "cache"):
        path.chmod(mode)
    return folder


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o111, 0o000], ids=oct)
def test_what_is_read_only_goes_with_its_folder(mode: int):
    with as_no_root() as base:
        assert remove_tree(written(base / "job", mode=mode)) == ""
        assert not (base / "job").exists()


def test_a_folder_behind_a_link_keeps_its_mode_and_its_files():
    with as_no_root() as base:
        (base / "else").mkdir(mode=0o555)
        written(base / "job", mode=0o555)
        (base / "job").chmod(0o700)
        (base / "job" / "link").symlink_to(base / "else")
        assert remove_tree(base / "job") == ""
        assert (base / "else").stat().st_mode & 0o777 == 0o555


def test_of_what_cannot_be_removed_the_reason_is_told_and_the_rest_goes():
    if os.geteuid() != 0:
        pytest.skip("needs a file of another user")
    with as_no_root() as base:
        written(base / "job" / "mine", mode=0o555)
        os.seteuid(0)
        (base / "job" / "theirs").mkdir()
        (base / "job" / "theirs" / "file").touch()
        os.seteuid(_NOBODY)
        assert remove_tree(base / "job").startswith("Permission denied: ")
        assert [path.name for path in (base / "job").iterdir()] == ["theirs"]


async def test_what_cannot_be_removed_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refused(_: Path) -> str:
        return "Permission denied: file"

    monkeypatch.setattr("agentbus_worker.running.folders.working_folder.remove_tree", refused)
    async with working_folder(tmp_path, "job", keep=lambda: False) as folder:
        pass
    assert [record.getMessage() for record in caplog.records] == [
        f"the working folder {folder} cannot be removed: Permission denied: file"
    ]


async def test_a_folder_that_is_not_kept_goes_with_its_task(tmp_path: Path):
    async with working_folder(tmp_path, "job", keep=lambda: False) as folder:
        assert folder is not None
        written(folder, mode=0o555)
    assert [*tmp_path.iterdir()] == []


async def test_a_folder_that_is_kept_stays_as_it_is(tmp_path: Path):
    async with working_folder(tmp_path, "job", keep=lambda: True) as folder:
        assert folder is not None
        written(folder, mode=0o555)
    assert (tmp_path / "job" / "cache" / "module@v1" / "file").exists()


async def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="job cannot be made: Not a directory"):
        async with working_folder(tmp_path / "file", "job", keep=lambda: False):
            pass
