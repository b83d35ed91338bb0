"""The users of the server of a storm: the administrator, and one for each worker with what its agent needs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from agentbus.protocol import subjects
from agentbus.protocol.permissions import trusting_worker

_PASSWORD: Final = "p"  # of a server on loopback that lives for minutes

Right = Literal["writing the ledger", "sending results", "acknowledging"]

RIGHTS: Final[Mapping[Right, str]] = {
    "writing the ledger": subjects.STATE_SUBJECTS,
    "sending results": subjects.RESULT_SUBJECTS,
    "acknowledging": "$JS.ACK.>",
}
"""What a storm takes from a worker for a while."""


def permissions(worker: str, agent: str, denied: Sequence[str] = ()) -> dict[str, Any]:
    """Those of a worker of an agent on a bus with one account, without what is denied; its answers come to itself."""
    party = trusting_worker(agent)
    return {
        "publish": {"allow": list(party.publish), "deny": list(denied)},
        "subscribe": {"allow": [f"{subjects.inbox_prefix(worker)}.>", *party.of("listen")]},
    }


@dataclass(frozen=True, slots=True)
class Users:
    """The configuration of a server with users."""

    path: Path
    store: Path
    port: int

    def write(self, granted: Mapping[str, Mapping[str, Any]]) -> None:
        """Write it as a whole: the server may start at any moment."""
        users: list[dict[str, Any]] = [{"user": "admin", "password": _PASSWORD}]
        users += [{"user": name, "password": _PASSWORD, "permissions": their} for name, their in granted.items()]
        text = (
            f'listen: "127.0.0.1:{self.port}"\nserver_name: agentbus\nmax_payload: 8MB\n'
            f"jetstream {{ store_dir: {json.dumps(str(self.store))}, sync_interval: always }}\n"
            f"authorization {{ users: {json.dumps(users)} }}\n"
        )
        new = self.path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.path)

    def url(self, user: str, port: int) -> str:
        """Where a user connects."""
        return f"nats://{user}:{_PASSWORD}@127.0.0.1:{port}"
