"""The program of an agent command: found once, from the folder of the worker."""

from pathlib import Path

import pytest

from agentbus.config.agent_commands.programs import find_program, program_from_anywhere
from agentbus.errors import ConfigError

pytestmark = pytest.mark.posix("a file is executable by its mode")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the programs `agent` and `bin/agent`, and the text `notes`."""
    (tmp_path / "bin").mkdir()
    for program in (tmp_path / "agent", tmp_path / "bin" / "agent"):
        program.write_text("#!/bin/sh\n", encoding="utf-8")
        program.chmod(0o755)
    (tmp_path / "notes").write_text("", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "program", "found"),
    [
        ("/usr/bin:/bin", "./agent", "agent"),
        ("/usr/bin:/bin", "bin/agent", "bin/agent"),
        ("/usr/bin:/bin", "bin/../agent", "bin/../agent"),
        ("bin:/usr/bin:/bin", "agent", "bin/agent"),
        ("/usr/bin:/bin:", "agent", "agent"),
        ("/usr/bin:.", "agent", "agent"),
    ],
)
def test_a_program_that_is_found_by_a_relative_path_is_made_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, program: str, found: str
):
    monkeypatch.setenv("PATH", path)
    assert program_from_anywhere(program) == str(folder / found)


def test_a_name_on_a_path_of_whole_paths_stays_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert program_from_anywhere("sh") == "sh"
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    assert program_from_anywhere("agent") == "agent"
    assert find_program("agent") == folder / "bin" / "agent"


def test_with_a_relative_entry_before_it_no_task_can_put_another_program_in_place_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", f".:{folder / 'bin'}")
    (folder / "agent").unlink()
    assert program_from_anywhere("agent") == str(folder / "bin" / "agent")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no-such-agent", "the command 'no-such-agent' was not found; install it or give its full path"),
        ("./no-such-agent", "the command './no-such-agent' was not found"),
        ("./notes", "'notes' is not executable for this user; chmod +x it"),
        ("/etc/passwd", "'/etc/passwd' is not executable for this user"),
        ("./bin", "'bin' is a folder; name the program in it"),
        ("~/bin/agent", "no '~' is replaced in '~/bin/agent'; write the whole path"),
    ],
)
def test_a_program_that_is_not_found_is_an_error_that_says_what_is_there(program: str, why: str):
    with pytest.raises(ConfigError) as caught:
        program_from_anywhere(program)
    assert str(caught.value).startswith(f"chat_cmd: {why}")
