"""What is written into the configuration of nats-server: permission lists, and one account for each party.

Inside one account, publish permissions bind honest programs only: the server sends its answers to whatever reply
subject a request names. Therefore the bus has an account to itself, and each party has another one that imports
exactly the subjects it was granted: its answers arrive there, where no stream listens.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.permissions import Party

BUS_ACCOUNT: Final = "BUS"
_MAX_CONNECTIONS: Final = 256
_ACCOUNT_INFO: Final = "$JS.API.INFO"
"""Imported by every account, and granted to no user. The server gives an account without JetStream the whole
JetStream API, only to answer that it has none, and that answer would come first; it leaves that to an account whose
own imports cover this subject."""


@dataclass(frozen=True, slots=True)
class Login:
    """How the server knows one party: the public half of its nkey, or its user name with the hash of a password."""

    party: Party
    nkey: str | None = None
    password_hash: str | None = field(default=None, repr=False)


def permissions(party: Party, *, indent: str = "") -> str:
    """The permission lists of a party's user, with the purpose of each group as a comment."""
    lines = ["{", "  publish: { allow: ["]
    for grant in party.grants:
        if grant.how != "listen":
            lines += [f"    # {grant.purpose}", *(f"    {_quoted(subject)}" for subject in grant.subjects)]
    lines += ["  ] }", "  subscribe: { allow: ["]
    lines += [f"    {_quoted(subject)}" for subject in party.subscribe]
    lines += ["  ] }", "}"]
    return f"\n{indent}".join(lines)


def accounts(administrator: Login, logins: Sequence[Login], *, max_memory: str, max_file: str) -> str:
    """The `accounts` block: the account of the bus, and one for each party that imports what it was granted."""
    parties = [login.party for login in logins]
    lines = [
        "accounts: {",
        f"  {BUS_ACCOUNT}: {{",
        f"    jetstream: {{ max_memory: {max_memory}, max_file: {max_file} }}",
        "    users: [",
        *_user(administrator),
        "    ]",
        "    exports: [",
        *(f"      {export}" for export in _exports(parties)),
        "    ]",
        "  }",
    ]
    for login in logins:
        lines += [
            f"  {_quoted(login.party.user)}: {{",
            f"    limits: {{ max_connections: {_MAX_CONNECTIONS} }}",
            "    users: [",
            *_user(login),
            "    ]",
            "    imports: [",
            *(f"      {one}" for one in _imports(login.party, parties)),
            "    ]",
            "    exports: [",
            *(f"      {one}" for one in _tells(login.party, parties)),
            "    ]",
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _user(login: Login) -> Iterable[str]:
    who = (
        f"nkey: {login.nkey}"
        if login.nkey is not None
        else f"user: {_quoted(login.party.user)}, password: {_quoted(login.password_hash or '')}"
    )
    yield f"      {{ {who}, permissions: {permissions(login.party, indent='      ')} }}"


def _exports(parties: Sequence[Party]) -> Iterable[str]:
    """What the bus serves: each subject once, with the accounts that may import it."""
    takers = {(_ACCOUNT_INFO, ""): [party.user for party in parties]}
    for party in parties:
        for subject in party.of("send"):
            takers.setdefault((subject, ""), []).append(party.user)
        for subject in party.of("pull"):
            takers.setdefault((subject, ", response_type: stream"), []).append(party.user)
    for (subject, answers), names in takers.items():
        yield f"{{ service: {_quoted(subject)}{answers}, accounts: {_list(names)} }}"


def _imports(party: Party, parties: Sequence[Party]) -> Iterable[str]:
    for subject in (_ACCOUNT_INFO, *party.of("send"), *party.of("pull")):
        yield f"{{ service: {{ account: {BUS_ACCOUNT}, subject: {_quoted(subject)} }} }}"
    for other in parties:
        for subject in _heard(other, party):
            yield f"{{ stream: {{ account: {_quoted(other.user)}, subject: {_quoted(subject)} }} }}"


def _tells(party: Party, parties: Sequence[Party]) -> Iterable[str]:
    """Core messages go from account to account: what came in as a service, the server does not export as a stream."""
    takers: dict[str, list[str]] = {}
    for other in parties:
        for subject in _heard(party, other):
            takers.setdefault(subject, []).append(other.user)
    for subject, names in takers.items():
        yield f"{{ stream: {_quoted(subject)}, accounts: {_list(names)} }}"


def _heard(speaker: Party, listener: Party) -> Iterable[str]:
    """The subjects that one party may tell and another listens to: of two that meet, the narrower one."""
    if speaker == listener:
        return
    for told in speaker.of("tell"):
        for wanted in listener.of("listen"):
            if subjects.covers(wanted, told):
                yield told
            elif subjects.covers(told, wanted):
                yield wanted


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(name) for name in names)}]"


def _quoted(text: str) -> str:
    return json.dumps(text)
