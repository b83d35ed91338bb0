"""Writes the accounts of a bus for nats-server: one account for each party, with its permissions.

Inside one account, publish permissions do not separate parties: the server sends answers to any reply subject that a
request names, also to that of a stream. Therefore the streams have an account of their own, and so has each party. The
account of a party imports exactly the subjects that it was granted. Answers arrive there, where there is no stream.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.permissions import Party
from agentbus.provision.conf_text import quoted, quoted_list

BUS_ACCOUNT: Final = "BUS"
MAX_CONNECTIONS: Final = 64
"""Of a party: a runaway agent must not use up `max_connections` of the server (4096) for the others.

Each worker process has one. `max_connections` in `bus.toml` raises it for agents on more machines."""
_ACCOUNT_INFO: Final = "$JS.API.INFO"
"""Imported by every account, and granted to no user.

The server exports the whole JetStream API to an account without JetStream, and answers there that the account has
none. That answer would arrive first. An account whose own imports cover this subject does not get that export."""


@dataclass(frozen=True, slots=True)
class Login:
    """The public part of a party's credential: its nkey, or its user name with the hash of its password."""

    party: Party
    nkey: str | None = None
    password_hash: str | None = field(default=None, repr=False)


def permission_lists(party: Party, *, indent: str = "") -> str:
    """Return the permissions of a party's user, with the purpose of each group as a comment."""
    lines = ["{", "  publish: { allow: ["]
    for grant in party.grants:
        if grant.how != "listen":
            lines += [f"    # {grant.purpose}", *(f"    {quoted(subject)}" for subject in grant.subjects)]
    lines += ["  ] }", "  subscribe: { allow: ["]
    lines += [f"    {quoted(subject)}" for subject in party.subscribe]
    lines += ["  ] }", "}"]
    return f"\n{indent}".join(lines)


def accounts_block(
    administrator: Login,
    logins: Sequence[Login],
    *,
    max_memory: str,
    max_file: str,
    max_connections: int = MAX_CONNECTIONS,
) -> str:
    """Return the `accounts` block: the account of the streams, and one for each party."""
    parties = [login.party for login in logins]
    lines = [
        "accounts: {",
        f"  {BUS_ACCOUNT}: {{",
        f"    jetstream: {{ max_memory: {max_memory}, max_file: {max_file} }}",
        "    users: [",
        *_user(administrator),
        "    ]",
        "    exports: [",
        *(f"      {export}" for export in _service_exports(parties)),
        "    ]",
        "  }",
    ]
    for login in logins:
        connections = min(max_connections, login.party.max_connections or max_connections)
        lines += [
            f"  {quoted(login.party.user)}: {{",
            f"    limits: {{ max_connections: {connections}, max_subscriptions: {login.party.max_subscriptions} }}",
            "    users: [",
            *_user(login),
            "    ]",
            "    imports: [",
            *(f"      {one}" for one in _imports(login.party, parties)),
            "    ]",
            "    exports: [",
            *(f"      {one}" for one in _stream_exports(login.party, parties)),
            "    ]",
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _user(login: Login) -> Iterable[str]:
    who = (
        f"nkey: {login.nkey}"
        if login.nkey is not None
        else f"user: {quoted(login.party.user)}, password: {quoted(login.password_hash or '')}"
    )
    yield f"      {{ {who}, permissions: {permission_lists(login.party, indent='      ')} }}"


def _service_exports(parties: Sequence[Party]) -> Iterable[str]:
    """Export each subject of the bus once, with the accounts that may import it."""
    importers = {(_ACCOUNT_INFO, ""): [party.user for party in parties]}
    for party in parties:
        for subject in party.of("send"):
            importers.setdefault((subject, ""), []).append(party.user)
        for subject in party.of("pull"):
            importers.setdefault((subject, ", response_type: stream"), []).append(party.user)
    for (subject, answers), names in importers.items():
        yield f"{{ service: {quoted(subject)}{answers}, accounts: {quoted_list(names)} }}"


def _imports(party: Party, parties: Sequence[Party]) -> Iterable[str]:
    for subject in (_ACCOUNT_INFO, *party.of("send"), *party.of("pull")):
        yield f"{{ service: {{ account: {BUS_ACCOUNT}, subject: {quoted(subject)} }} }}"
    for other in parties:
        for subject in _shared_subjects(other, party):
            yield f"{{ stream: {{ account: {quoted(other.user)}, subject: {quoted(subject)} }} }}"


def _stream_exports(party: Party, parties: Sequence[Party]) -> Iterable[str]:
    """Export core messages from account to account.

    They cannot pass through the account of the streams: the server does not export as a stream what it imported as a
    service.
    """
    importers: dict[str, list[str]] = {}
    for other in parties:
        for subject in _shared_subjects(party, other):
            importers.setdefault(subject, []).append(other.user)
    for subject, names in importers.items():
        yield f"{{ stream: {quoted(subject)}, accounts: {quoted_list(names)} }}"


def _shared_subjects(publisher: Party, subscriber: Party) -> Iterable[str]:
    """Yield what `publisher` may publish and `subscriber` receive: of two overlapping subjects, the narrower one."""
    if publisher == subscriber:
        return
    for published in publisher.of("tell"):
        for subscribed in subscriber.of("listen"):
            if subjects.covers(subscribed, published):
                yield published
            elif subjects.covers(published, subscribed):
                yield subscribed
