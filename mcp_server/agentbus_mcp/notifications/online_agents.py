"""Tracks which agents have online workers, from the messages of the registry."""

import hashlib
import math
from dataclasses import dataclass

from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.topology import PRESENCE_TTL_S
from agentbus.protocol.headers import KV_OPERATION


@dataclass(slots=True)
class _Heartbeat:
    agent: str
    digest: bytes
    expires_at: float


class OnlineAgents:
    """The online workers, and whether they changed since the last call of `take_changes`."""

    def __init__(self) -> None:
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._agents: set[str] | None = None
        self._changed = False

    def update(self, message: Delivery, now: float) -> None:
        """Record a message of the registry: a heartbeat, or the removal of a worker that has stopped."""
        agent = message.subject.split(".")[2]
        if message.headers.get(KV_OPERATION) is not None:
            self._changed |= self._heartbeats.pop(message.subject, None) is not None
            return
        digest = hashlib.sha256(message.data).digest()
        before = self._heartbeats.get(message.subject)
        self._changed |= before is None or before.digest != digest
        self._heartbeats[message.subject] = _Heartbeat(agent, digest, now + PRESENCE_TTL_S)

    def expire(self, now: float) -> None:
        """Remove the workers without a heartbeat for as long as the registry keeps an entry."""
        for subject in [subject for subject, last in self._heartbeats.items() if last.expires_at <= now]:
            del self._heartbeats[subject]
            self._changed = True

    @property
    def next_expiry(self) -> float:
        """When the next worker expires without another heartbeat."""
        return min((last.expires_at for last in self._heartbeats.values()), default=math.inf)

    def take_changes(self) -> list[bool]:
        """Return one item if something has changed since the last call: True if an agent came online or went offline.

        Returns nothing otherwise, and at the first call.
        """
        agents = {last.agent for last in self._heartbeats.values()}
        before, changed = self._agents, self._changed
        self._agents, self._changed = agents, False
        if before is None or not changed:
            return []
        return [before != agents]
