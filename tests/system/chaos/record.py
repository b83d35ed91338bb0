"""Records the results of storms, so that a series can continue after an interruption."""

import hashlib
import json
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import agentbus
import agentbus_worker
from agentbus.provision.nats_server import find_binary
from system.chaos.plan import Plan
from system.chaos.verdict import Account

_COLUMNS = (
    "published",
    "results",
    "duplicates",
    "lost",
    "executions",
    "takeovers",
    "workers killed",
    "workers died at a bad moment",
    "workers stopped",
    "server kills",
    "cuts",
    "rights refused for a while",
    "logs unread for a while",
    "commands vanished for a while",
    "commands run again",
    "run again: without a reason",
    "longest recovery of a task",
    "longest recovery after the restart of its worker",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One storm and its account; `source` is the digest of what was tested."""

    seed: int
    tasks: int
    numbers: dict[str, int | str]
    wrong: list[str]
    server: str = ""
    source: str = ""
    one_account: bool = False

    @classmethod
    def of(cls, plan: Plan, account: Account) -> "Run":
        """The account of a plan."""
        return cls(plan.seed, plan.tasks, account.numbers, account.wrong, one_account=plan.one_account)


class Record:
    """The storms of this call, and those of a file, to which new ones are added."""

    def __init__(self, path: Path | None) -> None:
        self.runs: list[Run] = []
        self._path = path
        self._server = server_version()
        self._source = source_digest()
        self._earlier: list[Run] = []
        if path is not None and path.exists():
            self._earlier = [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]

    def earlier(self, plan: Plan) -> Run | None:
        """The run of this plan that went well before on this source and server; it counts as one of this call."""
        for run in self._earlier:
            same = (run.seed, run.tasks, run.one_account) == (plan.seed, plan.tasks, plan.one_account)
            if same and (run.server, run.source) == (self._server, self._source) and not run.wrong:
                self.runs.append(run)
                return run
        return None

    def add(self, run: Run) -> None:
        """Record a run."""
        run = replace(run, server=self._server, source=self._source)
        self.runs.append(run)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")

    def table(self) -> str:
        """The runs as a table in Markdown."""
        head = ["seed", *_COLUMNS]
        rows = [[str(run.seed), *(str(run.numbers.get(name, "")) for name in _COLUMNS)] for run in self.runs]
        lines = [head, ["---"] * len(head), *rows]
        return f"nats-server {self._server}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def server_version() -> str:
    """The version of the nats-server that the storm runs against."""
    said = subprocess.run([str(find_binary()), "--version"], capture_output=True, encoding="utf-8", check=True).stdout
    return said.split()[-1].removeprefix("v")


def source_digest() -> str:
    """A digest of the core, the worker and the storm: what went well with another source says nothing of this one."""
    digest = hashlib.sha256()
    folders = [Path(module.__file__ or "").parent for module in (agentbus, agentbus_worker)]
    for path in sorted(path for folder in [*folders, Path(__file__).parent] for path in folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
