"""Carries out `agentbus notify`: finds its target and its state, and logs what is not delivered."""

import hashlib
import logging
import shlex
import sys
from pathlib import Path
from typing import Final, Literal

from agentbus.cli import output
from agentbus.cli.coordinator.events.watching import Watched, reader_of
from agentbus.concurrently import until_one_ends
from agentbus.config.connection_settings import read_secret
from agentbus.config.home import in_home
from agentbus.errors import ConfigError
from agentbus.notify.kept_connection import tell_events
from agentbus.notify.notifier import open_notifier
from agentbus.notify.targets import CommandTarget, Target, UrlTarget
from agentbus.provision.services import notify_service
from agentbus.tasks.events.task_event import TaskEvent

_STATES: Final = "~/.agentbus/notify"
_OF_SERVICE: Final = ("--install", "--print")
_MANAGER: Final = "--manager"
_PATHS: Final = ("--url-file", "--state", "--config")


class _Remarks(logging.Handler):
    """Prints log lines on standard error, harmless for a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        output.remark(record.getMessage())


def target_of(
    command: str | None, url: str | None, url_file: Path | None, timeout_s: float, body: Literal["json", "text"]
) -> Target:
    """Return where events go.

    Raises:
        ConfigError: it cannot be used.
    """
    if command is None:
        return UrlTarget(url or read_secret(in_home(url_file or "")), timeout_s, body)
    argv = _words(command)
    # Not as a path otherwise: that would make a name of `./tell-me`, which is looked for on the PATH.
    program = str(in_home(argv[0])) if argv[0].startswith("~") else argv[0]
    return CommandTarget((program, *argv[1:]), timeout_s)


def _words(command: str) -> list[str]:
    """Split a command as a shell does.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--exec cannot be read: {error}") from None
    if not argv or not argv[0]:
        raise ConfigError("--exec names no command")
    return argv


async def notify(
    nats_url: str | None, config: Path | None, wanted: Watched, target: Target, state: Path | None, give_up_s: float
) -> None:
    """Send events until this is cancelled."""
    logging.getLogger("agentbus.notify").addHandler(_Remarks())
    reader = reader_of(nats_url, config, wanted, "agentbus notify")
    file = state or in_home(_STATES) / f"{hashlib.sha256((reader.owner + target.key).encode()).hexdigest()[:16]}.json"
    async with open_notifier(target, file, give_up_s) as notifier:

        async def take(event: TaskEvent) -> None:
            if wanted.has(event):
                await notifier.take(event)

        await until_one_ends(tell_events(reader, notifier.position, take), notifier.run())


def install(command: str | None, manager: notify_service.Manager | None, *, print_only: bool) -> None:
    """Make this command a service, or print its unit.

    Raises:
        ConfigError: it cannot be one.
    """
    program = _words(command)[0] if command is not None else None
    if program is not None and "/" in program and not program.startswith(("/", "~")):
        raise ConfigError(f"a service runs in another folder: name {program} in --exec by its whole path")
    manager = manager or notify_service.manager_of_this_machine()
    text = notify_service.unit_text(_arguments_of_this(), program, manager)
    if print_only:
        output.line(text.removesuffix("\n"))
        return
    made = notify_service.install(text, manager)
    for hint in (f"{made.unit}: runs", *made.hints):
        output.remark(hint)


def _arguments_of_this() -> list[str]:
    """Return the arguments of this command, without those that make it a service, and with whole paths."""
    found: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        option, assigned, value = word.partition("=")
        if found and found[-1] in _PATHS:
            found.append(str(in_home(word).absolute()))
        elif option in _PATHS and assigned:
            found.append(f"{option}={in_home(value).absolute()}")
        elif word == _MANAGER:
            next(words, None)
        elif word not in _OF_SERVICE and option != _MANAGER:
            found.append(word)
    return found
