"""The service of `agentbus notify`: the unit of systemd and the property list of launchd run the same command."""

import plistlib
import stat
from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.provision.services.notify_service import install, unit_text
from support.harness import run_cli

pytestmark = pytest.mark.posix("services of systemd and launchd")

WORDS = ["notify", "--exec", 'say "50%" $HOME \\ & <x>', "--on", "failed,asks"]


def test_the_unit_of_systemd_quotes_its_words() -> None:
    text = unit_text(WORDS, "sh")
    [line] = [one for one in text.splitlines() if one.startswith("ExecStart=")]
    assert line.endswith('agentbus notify --exec "say \\"50%%\\" $$HOME \\\\ & <x>" --on failed,asks')
    assert "\n[Install]\n" in text


def test_the_property_list_has_the_words_as_they_are(home: Path) -> None:
    unit = plistlib.loads(unit_text(WORDS, "sh", "launchd").encode())
    assert unit["Label"] == "com.agentbus.notify"
    program, *words = unit["ProgramArguments"]
    assert Path(program).is_file()
    assert words == WORDS
    assert str(Path(program).parent) in unit["EnvironmentVariables"]["PATH"].split(":")
    assert unit["KeepAlive"] == {"SuccessfulExit": False}
    assert unit["StandardErrorPath"] == str(home / ".agentbus" / "notify.log")
    assert "YOU" not in str(unit)


@pytest.mark.parametrize("manager", ["systemd-user", "launchd"])
def test_a_word_that_no_unit_can_hold_is_refused(manager: str) -> None:
    with pytest.raises(ConfigError, match="characters that a unit cannot hold"):
        unit_text(["a\nb"], None, manager)  # pyright: ignore[reportArgumentType]


async def test_print_has_the_arguments_of_the_command_with_whole_paths(tmp_path: Path) -> None:
    options = ["--url-file", "~/chat-url", "--on", "failed", "--print", "--manager", "launchd"]
    ran = await run_cli("notify", *options, env={"HOME": str(tmp_path)})
    assert ran.code == 0, ran.err
    words = plistlib.loads(ran.out.encode())["ProgramArguments"][1:]
    assert words == ["notify", "--url-file", str(tmp_path / "chat-url"), "--on", "failed"]
    joined = await run_cli("notify", "--exec", "true", "--print", "--manager=launchd")
    assert plistlib.loads(joined.out.encode())["ProgramArguments"][1:] == ["notify", "--exec", "true"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("./tell-me now", "a service runs in another folder: name ./tell-me in --exec by its whole path"),
        ('say "', "--exec cannot be read: No closing quotation"),
        (" ", "--exec names no command"),
    ],
)
async def test_a_command_that_a_service_would_not_find_is_refused(command: str, said: str) -> None:
    ran = await run_cli("notify", "--exec", command, "--print", "--manager", "systemd-user")
    assert (ran.code, ran.out, ran.err) == (1, "", f"error: {said}\n")


def test_launchd_is_told_to_load_it(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launchctl, calls = tmp_path / "launchctl", tmp_path / "calls"
    launchctl.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n[ "$1" != print ]\n', encoding="utf-8")
    launchctl.chmod(launchctl.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    made = install(unit_text(WORDS, None, "launchd"), "launchd")
    assert made.unit == home / "Library" / "LaunchAgents" / "com.agentbus.notify.plist"
    assert calls.read_text(encoding="utf-8").splitlines()[-1].startswith("bootstrap gui/")
    assert "launchctl bootout gui/$UID/com.agentbus.notify" in made.hints[-1]
    assert plistlib.loads(made.unit.read_bytes())["ProgramArguments"][1:] == WORDS
