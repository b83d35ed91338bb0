"""The worker's log: one rotated file that several workers share, and stderr. `test_lines.py` has their form."""

import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from agentbus.config.worker_schema import LogSection
from agentbus.errors import ConfigError
from agentbus.observability.queued_log import QueuedHandler
from agentbus_worker.log import handlers
from agentbus_worker.log.handlers import LOG_FILE, log_to
from agentbus_worker.log.log_file import own_log_file
from support.harness import BOUND_S

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) (.*)")


@pytest.fixture
def section(tmp_path: Path) -> LogSection:
    return LogSection(dir=tmp_path / "logs")


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[logging.Logger]:
    """The logger of the package; whatever a test does, it is left as it was found."""
    logger = logging.getLogger("agentbus")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield logger
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Let new files be readable by everyone, as far as the program asks for that."""
    before = os.umask(0)
    yield
    os.umask(before)


def log_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{LOG_FILE}*") if path.suffix != ".lock"]


def lines_of(folder: Path) -> list[str]:
    """What was logged, over all files of a folder, oldest file first."""

    def age(path: Path) -> int:
        return int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0

    files = sorted(log_files(folder), key=age, reverse=True)
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def flush() -> None:
    for handler in logging.getLogger("agentbus").handlers:
        handler.flush()


def messages_of(folder: Path) -> list[str]:
    found = [LINE.fullmatch(line) for line in lines_of(folder)]
    return [match[2] for match in found if match]


# -- where it goes, and how it looks ----------------------------------------------------------------------------


@pytest.mark.usefixtures("open_umask")
def test_no_other_user_of_the_machine_can_read_the_log(section: LogSection):
    section = section.model_copy(update={"max_bytes": 4_096, "backup_count": 2})
    section.dir.mkdir(mode=0o700)
    before = section.dir / LOG_FILE
    before.touch(mode=0o644)  # of a version that left it open
    with log_to(section) as log:
        for number in range(200):
            log.info("line %d of many", number)
    files = list(section.dir.iterdir())
    assert len(files) == 4  # with the lock of the rotation
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o600 for path in files}


@pytest.mark.usefixtures("open_umask")
def test_a_log_folder_that_does_not_exist_is_made_for_the_owner_alone(section: LogSection):
    with log_to(section) as log:
        log.info("hello")
    assert section.dir.stat().st_mode & 0o777 == 0o700


def test_a_line_is_written_to_the_file_and_to_stderr_with_the_time_in_utc_and_its_level(
    section: LogSection, capsys: pytest.CaptureFixture[str]
):
    with log_to(section) as log:
        log.warning("bus %s is größer", "main")
    [line] = lines_of(section.dir)
    match = LINE.fullmatch(line)
    assert match is not None
    assert match.groups() == ("WARNING", "bus main is größer")
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(("verbose", "shown"), [(False, ["info"]), (True, ["debug", "info"])])
def test_details_are_logged_only_on_request(section: LogSection, verbose: bool, shown: list[str]):
    with log_to(section, verbose=verbose) as log:
        log.debug("debug")
        log.info("info")
    assert messages_of(section.dir) == shown


def test_the_folder_is_made_and_an_existing_file_is_continued(section: LogSection):
    section = section.model_copy(update={"dir": section.dir / "deep" / "er"})
    for text in ("first run", "second run"):
        with log_to(section) as log:
            log.info(text)
    assert messages_of(section.dir) == ["first run", "second run"]


def test_all_modules_of_the_package_log_here_and_other_libraries_do_not(section: LogSection):
    with log_to(section):
        logging.getLogger("agentbus.connection").info("ours")
        logging.getLogger("another.library").warning("theirs")
    assert messages_of(section.dir) == ["ours"]


def test_no_record_reaches_the_handlers_of_the_root_logger(section: LogSection, caplog: pytest.LogCaptureFixture):
    with log_to(section) as log:
        log.warning("once")
    assert caplog.records == []


def test_the_settings_of_logging_are_restored_afterwards(section: LogSection):
    log = logging.getLogger("agentbus.worker")
    before = log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.DEBUG)
    with log_to(section, verbose=True):
        assert log.isEnabledFor(logging.DEBUG)
    assert (log.isEnabledFor(logging.INFO), log.isEnabledFor(logging.DEBUG)) == before


def test_the_file_is_closed_when_the_block_ends_in_an_error(section: LogSection):
    with pytest.raises(RuntimeError, match="inside"), log_to(section):
        raise RuntimeError("inside")
    # The autouse fixture sees that no handler is left; a file left open would be a ResourceWarning, which is an error.
    assert (section.dir / LOG_FILE).exists()


@pytest.mark.parametrize("blocked", ["the folder is a file", "a parent is a file", "the log is a folder"])
def test_an_unwritable_log_folder_is_a_configuration_error(section: LogSection, blocked: str):
    if blocked == "the folder is a file":
        section.dir.write_text("", encoding="utf-8")
    elif blocked == "a parent is a file":
        section.dir.write_text("", encoding="utf-8")
        section = section.model_copy(update={"dir": section.dir / "below"})
    else:
        (section.dir / LOG_FILE).mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot write the log in .*; set dir in \[log\]") as caught, log_to(section):
        pass
    assert str(section.dir) in str(caught.value)


# -- rotation ---------------------------------------------------------------------------------------------------


def test_the_file_is_rotated_at_its_limit_and_the_oldest_is_deleted(section: LogSection):
    section = section.model_copy(update={"max_bytes": 1000, "backup_count": 2})
    with log_to(section) as log:
        for number in range(200):
            log.info("message %d", number)
    assert {path.name for path in log_files(section.dir)} == {LOG_FILE, f"{LOG_FILE}.1", f"{LOG_FILE}.2"}
    assert all(0 < path.stat().st_size <= 1000 for path in log_files(section.dir))
    kept = messages_of(section.dir)
    assert kept == [f"message {number}" for number in range(200 - len(kept), 200)], "the newest, in their order"


@contextlib.contextmanager
def a_handler_on(section: LogSection) -> Generator[Callable[[str], None]]:
    """A handler of its own for the file, as each worker has one; gives what writes a line with it."""
    handler = handlers._SharedRotatingHandler(  # pyright: ignore[reportPrivateUsage]
        section.dir / LOG_FILE, maxBytes=section.max_bytes, backupCount=section.backup_count, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("2026-05-18T00:00:00.000Z INFO %(message)s"))
    with contextlib.closing(handler):
        yield lambda text: handler.emit(logging.makeLogRecord({"msg": text}))


@pytest.mark.parametrize("turns", [1, 7, 40], ids="turns of {}".format)
def test_two_workers_that_rotate_one_file_lose_nothing(section: LogSection, turns: int):
    section.dir.mkdir(parents=True)
    section = section.model_copy(update={"max_bytes": 1000, "backup_count": 1000})
    written = [f"message {number}" for number in range(400)]
    with a_handler_on(section) as first, a_handler_on(section) as second:
        for number, text in enumerate(written):
            (first if number // turns % 2 else second)(text)
    assert messages_of(section.dir) == written
    # Each opened what the other had rotated: no file got more than its share.
    assert all(path.stat().st_size <= 1000 for path in log_files(section.dir))
    assert len(log_files(section.dir)) > 10


def test_a_log_file_that_was_moved_away_is_made_again(section: LogSection):
    with log_to(section) as log:
        log.info("before")
        flush()
        (section.dir / LOG_FILE).rename(section.dir / "taken away")
        log.info("after")
    assert messages_of(section.dir) == ["after"]


WRITER = """
import logging, sys
from pathlib import Path
from agentbus.config.worker_schema import LogSection
from agentbus_worker.log.handlers import log_to
with log_to(LogSection(dir=Path(sys.argv[1]), max_bytes=2000, backup_count=1000)) as log:
    for number in range(int(sys.argv[3])):
        log.info("worker %s message %d", sys.argv[2], number)
"""


async def test_several_worker_processes_that_rotate_one_file_at_once_lose_nothing(section: LogSection):
    names, count = ("a", "b", "c"), 2000
    async with asyncio.timeout(3 * BOUND_S):
        writers = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", WRITER, str(section.dir), name, str(count), stderr=asyncio.subprocess.DEVNULL
            )
            for name in names
        ]
        assert [await writer.wait() for writer in writers] == [0, 0, 0]
    found = lines_of(section.dir)
    assert all(LINE.fullmatch(line) for line in found), "a line was torn"
    messages = messages_of(section.dir)
    assert len(messages) == len(names) * count
    for name in names:
        mine = [text for text in messages if text.startswith(f"worker {name} ")]
        assert mine == [f"worker {name} message {number}" for number in range(count)]


# -- one file for each worker -----------------------------------------------------------------------------------


def test_each_worker_that_runs_has_a_log_file_of_its_own_and_gets_it_again(tmp_path: Path):
    logs, state, other = tmp_path / "logs", tmp_path / "state", tmp_path / "other"
    logs.mkdir()
    for _ in range(2):
        with (
            own_log_file(logs, "code", state) as first,
            own_log_file(logs, "code", state) as replica,
            own_log_file(logs, "doc", state) as doc,
            own_log_file(logs, "doc", other) as elsewhere,
        ):
            names = [path.name for path in (first, replica, doc, elsewhere)]
        assert names == [LOG_FILE, "agentbus-worker-code.log", "agentbus-worker-doc.log", "agentbus-worker-doc-2.log"]
    with own_log_file(logs, "doc", state) as alone:
        assert alone.name == "agentbus-worker-doc.log", "that of another agent is free, and is not taken"


@pytest.mark.usefixtures("open_umask")
def test_every_line_names_the_agent_and_the_worker(section: LogSection):
    with log_to(section, worker="host-1", agent="code", state_dir=section.dir / "state") as log:
        log.info("hello")
    assert messages_of(section.dir) == ["hello agent=code worker=host-1"]
    assert {path.stat().st_mode & 0o777 for path in section.dir.iterdir()} == {0o600}


# -- what libraries say -----------------------------------------------------------------------------------------


def test_warnings_of_libraries_go_to_standard_error_on_a_thread_too(
    section: LogSection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = logging.lastResort
    with log_to(section):
        assert isinstance(logging.lastResort, QueuedHandler)
        logging.getLogger("another.library").info("chatter")
        logging.getLogger("another.library").warning("theirs")
    assert capsys.readouterr().err == "theirs\n"
    assert logging.lastResort is before
