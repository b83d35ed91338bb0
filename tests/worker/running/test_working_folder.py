"""The working folder of a task: it goes with the task, whatever its command has left in it."""

import asyncio
import os
from pathlib import Path

import pytest

from agentbus.errors import CommandError
from agentbus_worker.running.working_folder import remove_tree, working_folder
from support.file_faults import as_no_root


def written(folder: Path, *, mode: int) -> Path:
    """A tree as package managers leave it: folders of this mode, with files that may not be written to."""
    (folder / "cache" / "module@v1").mkdir(parents=True)
    (folder / "cache" / "module@v1" / "file").write_text("x", encoding="utf-8")
    (folder / "cache" / "module@v1" / "file").chmod(0o444)
    for path in (folder / "cache" / "module@v1", folder / "cache"):
        path.chmod(mode)
    return folder


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o111, 0o000], ids=oct)
async def test_what_is_read_only_goes_with_its_folder(mode: int):
    with as_no_root() as base:
        async with working_folder(base, "job", keep=False) as folder:
            assert folder is not None
            await asyncio.to_thread(written, folder, mode=mode)
        assert not (base / "job").exists()


def test_a_folder_behind_a_link_keeps_its_mode_and_its_files():
    with as_no_root() as base:
        (base / "else").mkdir(mode=0o555)
        written(base / "job", mode=0o555)
        (base / "job").chmod(0o700)
        (base / "job" / "link").symlink_to(base / "else")
        assert remove_tree(base / "job") == ""
        assert (base / "else").stat().st_mode & 0o777 == 0o555


async def test_what_cannot_be_removed_is_logged_once_and_the_rest_goes(caplog: pytest.LogCaptureFixture):
    if os.geteuid() != 0:
        pytest.skip("needs a file of another user")
    with as_no_root() as base:
        async with working_folder(base, "job", keep=False) as folder:
            assert folder is not None
            written(folder / "mine", mode=0o555)
            os.seteuid(0)
            (folder / "theirs").mkdir()
            (folder / "theirs" / "file").touch()
            os.seteuid(65534)
        assert [path.name for path in (base / "job").iterdir()] == ["theirs"]
    [record] = caplog.records
    assert "job cannot be removed: Permission denied: " in record.getMessage()


async def test_a_folder_that_is_kept_stays_as_it_is(tmp_path: Path):
    async with working_folder(tmp_path, "job", keep=True) as folder:
        assert folder is not None
        written(folder, mode=0o555)
    assert (tmp_path / "job" / "cache" / "module@v1" / "file").exists()


async def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="job cannot be made: Not a directory"):
        async with working_folder(tmp_path / "file", "job", keep=False):
            pass
