"""What is known of versions of nats-server: the oldest that works, and the flaws that were fixed in later ones.

The flaws are those of the advisories of the NATS project that let one user of a bus reach what belongs to another, or
let a stranger in or stop the server. https://advisories.nats.io has them all.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

Version: TypeAlias = tuple[int, int, int]

OLDEST_SERVER: Final[Version] = (2, 10, 0)
"""The streams of agentbus need what came with 2.10."""


@dataclass(frozen=True, slots=True)
class Advisory:
    """A flaw of nats-server.

    Attributes:
        name: its CVE number, or that of the advisory.
        flaw: what it allows, and to whom.
        fixed: the first sound version of each line of releases that got a fix; older lines got none.
        since: the first version that has it.
    """

    name: str
    flaw: str
    fixed: tuple[Version, ...]
    since: Version = (0, 0, 0)

    def concerns(self, version: Version) -> bool:
        """Whether a version has the flaw."""
        line = version[:2]
        for fixed in self.fixed:
            if fixed[:2] == line:
                return self.since <= version < fixed
        return self.since <= version < max(self.fixed)


ADVISORIES: Final = (
    Advisory(
        "CVE-2025-30215",
        "a user with rights on the JetStream API reaches the streams of other accounts",
        fixed=((2, 10, 27), (2, 11, 1)),
        since=(2, 2, 0),
    ),
    Advisory("CVE-2026-27889", "a stranger stops a server that has a WebSocket port", fixed=((2, 11, 14), (2, 12, 5))),
    Advisory("CVE-2026-33218", "a stranger stops a server that has a leafnode port", fixed=((2, 11, 15), (2, 12, 6))),
    Advisory("CVE-2026-33222", "who may restore one stream can overwrite others", fixed=((2, 11, 15), (2, 12, 6))),
    Advisory(
        "CVE-2026-33248",
        "a client certificate passes for another one where verify_and_map compares some patterns of its subject",
        fixed=((2, 11, 15), (2, 12, 6)),
    ),
    Advisory(
        "CVE-2026-33249",
        "trace headers make the server publish where the user may not",
        fixed=((2, 11, 15), (2, 12, 6)),
        since=(2, 11, 0),
    ),
    Advisory(
        "GHSA-38x3-76xf-cq45",
        "a stranger gets in by a route or a leafnode port where no_auth_user is set",
        fixed=((2, 11, 16), (2, 12, 7), (2, 14, 0)),
    ),
    Advisory(
        "GHSA-jx8g-9g95-6322",
        "a queue subscription passes by a deny rule for subscriptions",
        fixed=((2, 11, 16), (2, 12, 7), (2, 14, 0)),
    ),
    Advisory(
        "CVE-2026-58207 to 58254",
        "among them: messages that a user may not read are delivered to it",
        fixed=((2, 12, 12), (2, 14, 3)),
    ),
)

_SOUND: Final = max(version for advisory in ADVISORIES for version in advisory.fixed)


def parse_version(text: str) -> Version | None:
    """Read the version that a server tells, as `2.12.0-RC.1`, or None if it is none."""
    found = re.match(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)", text, re.ASCII)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def version_warning(text: str) -> str | None:
    """What a person should know about the version of a server, or None."""
    version = parse_version(text)
    if version is None:
        return f"the version of the server, {text[:40]!r}, is none of nats-server"
    if version < OLDEST_SERVER:
        return f"nats-server {text} is older than 2.10, the oldest that agentbus works with; upgrade it"
    found = [advisory for advisory in ADVISORIES if advisory.concerns(version)]
    if not found:
        return None
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"nats-server {text} has known flaws ({found[0].name}: {found[0].flaw}{more}); upgrade it to "
        f"{'.'.join(str(part) for part in _SOUND)} or later"
    )
