"""Who is signed in to the page: links that open it once, and the sessions of browsers.

A link carries its token behind a `#`, which no browser sends anywhere, so no log ever holds it. The page exchanges it
for a cookie. Both are random, and kept here as hashes only.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentbus.config.mcp_tokens import hash_of
from agentbus.protocol.ids import random_token

LINK_S: Final = 900.0
"""How long a link can be used: long enough to take it to another machine."""
IDLE_S: Final = 7 * 86_400.0
"""A session that is not used for so long has ended."""
MOST_SESSIONS: Final = 1_000
_MOST_LINKS: Final = 100
_TOKEN_CHARS: Final = 43
EVERYONE: Final = ""
"""The identity of those who come by a link, where the page has one coordinator for all."""


@dataclass(slots=True)
class Session:
    """A browser that is signed in.

    Attributes:
        identity: the hash of the token of its coordinator, or `EVERYONE`.
        ended: set once it is signed out.
    """

    identity: str
    used_at: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Sessions:
    """The links and the sessions of a process."""

    def __init__(self, is_known: Callable[[str], bool], clock: Callable[[], float], *, link_s: float = LINK_S) -> None:
        """Admit tokens whose hash `is_known`, besides links; `clock` never goes back."""
        self._is_known = is_known
        self._clock = clock
        self._link_s = link_s
        self._links: dict[str, tuple[str, float]] = {}
        self._sessions: dict[str, Session] = {}

    def new_link(self, identity: str) -> str:
        """Make the token of a link that opens the page once."""
        token = random_token(_TOKEN_CHARS)
        self._links = {key: link for key, link in self._links.items() if link[1] > self._clock()}
        while len(self._links) >= _MOST_LINKS:
            self._links.pop(next(iter(self._links)))
        self._links[hash_of(token)] = identity, self._clock() + self._link_s
        return token

    def redeem(self, token: str) -> str | None:
        """Return the key of a new session for the token of a link, which is used up by it, or for one of a file."""
        token_hash = hash_of(token)
        identity, until = self._links.pop(token_hash, (None, 0.0))
        if identity is None or until <= self._clock():
            if not self._is_known(token_hash):
                return None
            identity = token_hash
        key = random_token(_TOKEN_CHARS)
        while len(self._sessions) >= MOST_SESSIONS:
            oldest = min(self._sessions, key=lambda one: self._sessions[one].used_at)
            self._end(oldest)
        self._sessions[hash_of(key)] = Session(identity, self._clock())
        return key

    def of_key(self, key: str) -> Session | None:
        """Return the session of a cookie, which is used by that."""
        found = self._sessions.get(key_hash := hash_of(key))
        if found is None:
            return None
        if found.used_at + IDLE_S <= self._clock():
            self._end(key_hash)
            return None
        found.used_at = self._clock()
        return found

    def sign_out(self, key: str) -> None:
        """End the session of a cookie."""
        self._end(hash_of(key))

    def _end(self, key_hash: str) -> None:
        if (session := self._sessions.pop(key_hash, None)) is not None:
            session.ended.set()
