"""The parties of the one server of a storm: each with an account and a ledger, or users of one account."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import CoordinatorNatsSection
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR, trusting_worker
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.conf_text import quoted_list
from support.free_ports import free_port
from support.installation import PLAN, credential_of

_PASSWORD: Final = "p"  # of a server on loopback that lives for minutes

Right = Literal["writing the ledger", "sending results", "acknowledging"]

RIGHTS: Final[Mapping[Right, str]] = {
    "writing the ledger": subjects.STATE_SUBJECTS,
    "sending results": subjects.RESULT_SUBJECTS,
    "acknowledging": "$JS.ACK.>",
}
"""What a storm takes from a worker for a while."""


class Users(ABC):
    """The configuration of a server with its users.

    Args:
        workers: the agent of each worker.
    """

    def __init__(self, workers: Mapping[str, str]) -> None:
        self.workers = workers
        self.port = free_port()

    @property
    @abstractmethod
    def configuration(self) -> Path:
        """What the server is started with."""

    @abstractmethod
    def together_with(self, workers: Sequence[str]) -> list[str]:
        """Those whose rights are those of some workers: with one credential there is one right."""

    @abstractmethod
    def deny(self, denied: Mapping[str, Sequence[str]]) -> None:
        """Write the configuration as a whole, with what is denied to which worker: the server may start any moment."""

    @abstractmethod
    def nats(self, party: str, port: int) -> dict[str, str | Path]:
        """How a worker, `main` or the administrator connects to a port: the keys of `[nats]`."""

    def settings(self, party: str) -> ConnectionSettings:
        """How `main` or the administrator connects to the server itself."""
        section = CoordinatorNatsSection.model_validate(self.nats(party, self.port))
        return connection_settings(section, agent=party, name=f"chaos {party}", reconnect_wait_s=0.1)


class AccountForEach(Users):
    """A bus as `agentbus init` makes it: an account and a ledger for each party. The workers of an agent share both."""

    def __init__(self, workers: Mapping[str, str], folder: Path) -> None:
        super().__init__(workers)
        plan = replace(PLAN, port=self.port, max_file="4GiB")
        self._folder = create(folder / "bus", plan, dict.fromkeys(workers.values()))
        self._accounts = self._folder.path / "accounts.conf"
        self._granted = self._accounts.read_text(encoding="utf-8")

    @property
    def configuration(self) -> Path:
        return self._folder.servers[0].configuration

    def together_with(self, workers: Sequence[str]) -> list[str]:
        agents = {self.workers[name] for name in workers}
        return [name for name, agent in self.workers.items() if agent in agents]

    def deny(self, denied: Mapping[str, Sequence[str]]) -> None:
        text = self._granted
        for agent, those in {self.workers[name]: those for name, those in denied.items() if those}.items():
            before, account, rest = text.partition(f'  "{subjects.address(agent)}": {{\n')
            allowed, end, rest = rest.partition("\n        ] }\n        subscribe:")
            assert end, "the account of each agent has the permissions of one user"
            denial = end.replace("]", f"], deny: {quoted_list(those)}", 1)
            text = f"{before}{account}{allowed}{denial}{rest}"
        _replace(self._accounts, text)

    def nats(self, party: str, port: int) -> dict[str, str | Path]:
        ca = self._folder.path / "tls" / "ca.pem"
        return {
            "url": f"tls://127.0.0.1:{port}",
            "ca_file": ca,
            **credential_of(self._folder, self.workers.get(party, party)),
        }


class OneAccount(Users):
    """Users of one account, which has one ledger: the administrator, and one for each worker as its agent needs it."""

    def __init__(self, workers: Mapping[str, str], folder: Path) -> None:
        super().__init__(workers)
        self._path = folder / "nats.conf"
        self._store = folder / "nats"
        self.deny({})

    @property
    def configuration(self) -> Path:
        return self._path

    def together_with(self, workers: Sequence[str]) -> list[str]:
        return list(workers)

    def deny(self, denied: Mapping[str, Sequence[str]]) -> None:
        users: list[dict[str, Any]] = [{"user": ADMINISTRATOR, "password": _PASSWORD}]
        users += [
            {"user": name, "password": _PASSWORD, "permissions": _permissions(name, agent, denied.get(name, ()))}
            for name, agent in self.workers.items()
        ]
        _replace(
            self._path,
            f'listen: "127.0.0.1:{self.port}"\nserver_name: agentbus\nmax_payload: 8MB\n'
            f"jetstream {{ store_dir: {json.dumps(str(self._store))}, sync_interval: always }}\n"
            f"authorization {{ users: {json.dumps(users)} }}\n",
        )

    def nats(self, party: str, port: int) -> dict[str, str | Path]:
        user = party if party in self.workers else ADMINISTRATOR
        return {"url": f"nats://{user}:{_PASSWORD}@127.0.0.1:{port}"}


def _permissions(worker: str, agent: str, denied: Sequence[str]) -> dict[str, Any]:
    """Those of a worker of an agent on a bus with one account, without what is denied; its answers come to itself."""
    party = trusting_worker(agent)
    return {
        "publish": {"allow": list(party.publish), "deny": list(denied)},
        "subscribe": {"allow": [f"{subjects.inbox_prefix(worker)}.>", *party.of("listen")]},
    }


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
