"""Which agents have workers that are alive, kept up from the registry's messages."""

import hashlib
import math
from dataclasses import dataclass

from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.setup import PRESENCE_TTL_S
from agentbus.protocol.headers import KV_OPERATION


@dataclass(slots=True)
class _Seen:
    agent: str
    digest: bytes
    expires_at: float


class OnlineAgents:
    """The living workers, and what has changed among them since the last look."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._agents: set[str] | None = None
        self._changed = False

    def see(self, message: Delivery, now: float) -> None:
        """Take up a message of the registry: a heartbeat, or a goodbye."""
        agent = message.subject.split(".")[2]
        if message.headers.get(KV_OPERATION) is not None:
            self._changed |= self._seen.pop(message.subject, None) is not None
            return
        digest = hashlib.sha256(message.data).digest()
        before = self._seen.get(message.subject)
        self._changed |= before is None or before.digest != digest
        self._seen[message.subject] = _Seen(agent, digest, now + PRESENCE_TTL_S)

    def expire(self, now: float) -> None:
        """Forget the workers that have not been heard of for as long as the registry keeps an entry."""
        for subject in [subject for subject, seen in self._seen.items() if seen.expires_at <= now]:
            del self._seen[subject]
            self._changed = True

    @property
    def next_expiry(self) -> float:
        """When the next worker is forgotten if nothing is heard of it."""
        return min((seen.expires_at for seen in self._seen.values()), default=math.inf)

    def changes(self) -> list[bool]:
        """Nothing, or one item if something has changed since the last call: True if an agent has come or gone."""
        agents = {seen.agent for seen in self._seen.values()}
        before, changed = self._agents, self._changed
        self._agents, self._changed = agents, False
        if before is None or not changed:
            return []
        return [before != agents]
