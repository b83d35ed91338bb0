"""The tasks that MCP servers have published for the session of a host: in files that its monitor reads.

Each server process has a file, `~/.agentbus/sessions/*.json`, which it replaces as a whole. Of a session, the files of
all its servers count: a host may start one anew.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from agentbus.config.atomic_files import replace_file
from agentbus.config.home import in_home
from agentbus.config.private_files import private_folder
from agentbus.errors import AgentBusError, ConfigError
from agentbus.notify.host_session import HostSession, host_session
from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.timestamps import now

log = logging.getLogger("agentbus.notify")

FOLDER: Final = "~/.agentbus/sessions"
_MOST_TASKS: Final = 2_000
_MOST_FILES: Final = 500
_KEPT_S: Final = 31 * 86_400.0
"""Results are kept for 30 days by default."""
_MAX_FILE_BYTES: Final = 2**20

_Text = Annotated[str, StringConstraints(max_length=300)]
_AgentId = Annotated[str, AfterValidator(subjects.configured_agent_id)]


class _Task(BaseModel):
    model_config = ConfigDict(extra="ignore")

    agent: _AgentId
    id: Annotated[str, AfterValidator(subjects.task_id)]
    owner: _AgentId = COORDINATOR
    seen: bool = False

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.agent, self.id, self.owner)


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    session: _Text = ""
    process: _Text = ""
    began: _Text = ""
    tasks: Annotated[list[_Task], Field(max_length=_MOST_TASKS)] = []


class PublishedTasks:
    """What one MCP server notes for the session that it belongs to. A file that cannot be written stops no tool.

    Its methods wait for the disk, and may be called by several threads.
    """

    def __init__(self, owner: str, folder: Path | None = None) -> None:
        self._owner = owner
        self._folder = folder
        self._file: Path | None = None
        self._noted = _File()
        self._tasks: dict[tuple[str, str], _Task] = {}
        self._lock = threading.Lock()

    def note(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Note that tasks, each an agent and an id, were published for this session, or that it waits for them anew."""
        with self._lock:
            for agent, task_id in tasks:
                self._tasks.pop((agent, task_id), None)
                self._tasks[agent, task_id] = _Task(agent=agent, id=task_id, owner=self._owner)
            while len(self._tasks) > _MOST_TASKS:
                del self._tasks[next(iter(self._tasks))]
            self._write()

    def saw(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Note that the model has read the results of tasks: it need not be told of them."""
        with self._lock:
            found = (self._tasks.get(task) for task in tasks)
            news = [one for one in found if one is not None and not one.seen]
            for one in news:
                one.seen = True
            if news:
                self._write()

    def _write(self) -> None:
        if not self._tasks:
            return
        self._noted.tasks = list(self._tasks.values())
        try:
            if self._file is None:
                self._begin()
            assert self._file is not None, "it was just made"
            replace_file(self._file, self._noted.model_dump_json(exclude_defaults=True).encode(), durable=False)
        except (OSError, ConfigError) as error:
            log.info("the tasks of this session cannot be noted, so no monitor tells of them: %s", error)

    def _begin(self) -> None:
        session = host_session()
        self._noted.session, self._noted.process, self._noted.began = session.id, session.process, now()
        folder = self._folder or in_home(FOLDER)
        private_folder(folder)
        _clean(folder)
        self._file = folder / f"{session.pid or os.getppid()}-{os.getpid()}-{random_token()[:6]}.json"


@dataclass
class SessionTasks:
    """The tasks of one session, read again whenever a file has changed.

    Attributes:
        began: when the first server of the session published its first task, by the clock of this machine.
    """

    session: HostSession
    folder: Path = field(default_factory=lambda: in_home(FOLDER))
    began: datetime | None = None
    _tasks: dict[TaskKey, bool] = field(default_factory=dict[TaskKey, bool])
    _read: dict[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])

    def look(self) -> None:
        """Read what has changed."""
        with suppress(OSError):
            for file in sorted(self.folder.glob("*.json"))[:_MOST_FILES]:
                with suppress(OSError):
                    about = file.stat()
                    state = (about.st_mtime_ns, about.st_size)
                    if self._read.get(file) != state and about.st_size <= _MAX_FILE_BYTES:
                        self._read[file] = state
                        self._take(file.read_bytes())

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._tasks

    def is_seen(self, key: TaskKey) -> bool:
        """Whether the model has read the result of a task."""
        return self._tasks.get(key, False)

    @property
    def agents(self) -> set[str]:
        """The agents that were given tasks whose results were not seen."""
        return {key.agent for key, seen in self._tasks.items() if not seen}

    def _take(self, data: bytes) -> None:
        try:
            found = _File.model_validate(json.loads(data))
            began = datetime.fromisoformat(found.began).astimezone(UTC) if found.began else None
        except (ValueError, AgentBusError, RecursionError):
            return
        if not self.session.is_that_of(HostSession(found.session, found.process)):
            return
        self._tasks |= {one.key: one.seen or self._tasks.get(one.key, False) for one in found.tasks}
        if began is not None:
            self.began = began if self.began is None else min(began, self.began)


def _clean(folder: Path) -> None:
    """Remove the files of sessions that are long over."""
    with suppress(OSError):
        files = sorted(((file.stat().st_mtime, file) for file in folder.glob("*.json")), reverse=True)
        for number, (changed, file) in enumerate(files):
            if number >= _MOST_FILES - 1 or time.time() - changed > _KEPT_S:
                with suppress(OSError):
                    file.unlink()
