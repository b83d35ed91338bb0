"""What a party of the bus is: its grants, each a group of subjects with their purpose, and its bounds."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit

MAX_SUBSCRIPTIONS: Final = 64
"""Of a connection of a worker, which needs 3."""

How = Literal["send", "pull", "tell", "listen"]
"""`send`: to JetStream, with at most one answer. `pull`: a request to it with several answers. `tell`: core messages to
other parties, which `listen` to them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Subjects that a party may use in one way, and what for.

    Attributes:
        attested: where the party has an account of its own, the server stores what it sends under the subject with the
            id of the party added, so that the subject says who sent it.
        since: the layout of a bus that has this grant; doctor does not call an older one broken.
        before: what a bus of an older layout grants in its place.
    """

    purpose: str
    subjects: tuple[str, ...]
    how: How = "send"
    attested: bool = False
    since: int = 1
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Party:
    """A user with its own credentials: the administrator, a coordinator, or the workers of one agent.

    Attributes:
        max_subscriptions: how many each of its connections may have: each takes memory of the server.
        max_connections: how many connections it may have; None for what the bus allows each party.
        denied: what it may not publish, although its grants cover it.
    """

    id: str
    grants: tuple[Grant, ...]
    max_subscriptions: int = MAX_SUBSCRIPTIONS
    max_connections: int | None = None
    denied: tuple[str, ...] = ()

    @property
    def user(self) -> str:
        """The name of its user, and of its account where it has one."""
        return subjects.address(self.id)

    @property
    def inbox(self) -> str:
        """Where the answers to its requests arrive."""
        return f"{subjects.inbox_prefix(self.id)}.>"

    @property
    def publish(self) -> tuple[str, ...]:
        """Everything that it may publish to."""
        return _of(self.grants, "send", "pull", "tell")

    @property
    def subscribe(self) -> tuple[str, ...]:
        """Everything that it may subscribe to."""
        return (self.inbox, *_of(self.grants, "listen"))

    def of(self, how: How) -> tuple[str, ...]:
        """The subjects that it may use in this one way."""
        return _of(self.grants, how)

    def stored_as(self, subject: str) -> str:
        """The subject that the server stores what it sends under, where it has an account of its own."""
        if not any(grant.attested and subject in grant.subjects for grant in self.grants):
            return subject
        return (
            audit.said_by(self.id, subject)
            if subject in (*audit.SAID, *audit.SAID_BY_OPERATORS)
            else f"{subject}.{self.id}"
        )

    def since(self, subject: str) -> int:
        """The layout of a bus that lets it use a subject of its grants."""
        return min(grant.since for grant in self.grants if subject in grant.subjects)

    def before(self, subject: str) -> tuple[str, ...]:
        """What a bus of an older layout lets it use in place of a subject of its grants."""
        return tuple(one for grant in self.grants if subject in grant.subjects for one in grant.before)

    def on_layout(self, layout: int) -> "Party":
        """Return the party as a bus of a layout has it: with what that grants in place of what is newer."""
        grants = tuple(
            replace(grant, subjects=grant.before, before=()) if grant.before and layout < grant.since else grant
            for grant in self.grants
        )
        return replace(self, grants=grants)


def _of(grants: Iterable[Grant], *how: How) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subject for grant in grants if grant.how in how for subject in grant.subjects))
