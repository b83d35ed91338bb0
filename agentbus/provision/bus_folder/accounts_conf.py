"""Writes the accounts of a bus for nats-server: those of the streams, and one for each party, with its permissions.

Inside one account, publish permissions do not separate parties: the server sends answers to any reply subject that a
request names, also to that of a stream. Therefore the streams have accounts of their own, and so has each party. The
account of a party imports exactly the subjects that it was granted. Answers arrive there, where there is no stream.

The queue is apart from the other streams: see `agentbus.protocol.accounts`. BUS must never import a service from TASKS:
a subject without wildcards would be a target of the consumers in BUS again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agentbus.protocol.accounts import BUS, TASKS, Account, account_of, covers
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties import ledger_streams
from agentbus.protocol.parties.party import Party
from agentbus.provision.conf_text import quoted, quoted_list

MAX_CONNECTIONS: Final = 64
"""Of a party: a runaway agent must not use up `max_connections` of the server (4096) for the others.

Each worker process has one. `max_connections` in `bus.toml` raises it for agents on more machines."""
_ACCOUNT_INFO: Final = "$JS.API.INFO"
"""Imported by every account, and granted to no user.

The server exports the whole JetStream API to an account without JetStream, and answers there that the account has
none. That answer would arrive first. An account whose own imports cover this subject does not get that export. It comes
from the first account of streams only: of two that answered, the first answer would count."""


@dataclass(frozen=True, slots=True)
class Login:
    """The public part of a party's credential: its nkey, or its user name with the hash of its password."""

    party: Party
    nkey: str | None = None
    password_hash: str | None = field(default=None, repr=False)
    user: str = ""

    @property
    def user_name(self) -> str:
        """The name of the user: that of its party, unless the party has another user of that name."""
        return self.user or self.party.user


@dataclass(frozen=True, slots=True)
class StreamsAccount:
    """An account that holds streams: its administrator, and the storage that it may use."""

    name: Account
    administrator: Login
    max_memory: str
    max_file: str


def permission_lists(party: Party, *, indent: str = "") -> str:
    """Return the permissions of a party's user, with the purpose of each group as a comment."""
    lines = ["{", "  publish: { allow: ["]
    for grant in party.grants:
        if grant.how != "listen":
            lines += [f"    # {grant.purpose}", *(f"    {quoted(subject)}" for subject in grant.subjects)]
    denied = f", deny: {quoted_list(party.denied)}" if party.denied else ""
    lines += [f"  ]{denied} }}", "  subscribe: { allow: ["]
    lines += [f"    {quoted(subject)}" for subject in party.subscribe]
    lines += ["  ] }", "}"]
    return f"\n{indent}".join(lines)


def accounts_block(
    streams: Sequence[StreamsAccount],
    logins: Sequence[Login],
    *,
    max_connections: int = MAX_CONNECTIONS,
    ledgers_apart: bool = True,
) -> str:
    """Return the `accounts` block: the accounts of the streams, and one for each party.

    With one account of streams, it holds all of them, and no subject says who sent a message.

    Args:
        ledgers_apart: each party has a ledger of its own.
    """
    return "\n".join(_Accounts(streams, logins, max_connections, ledgers_apart).lines()) + "\n"


class _Accounts:
    """The accounts of one bus."""

    def __init__(
        self, streams: Sequence[StreamsAccount], logins: Sequence[Login], max_connections: int, ledgers_apart: bool
    ) -> None:
        self._streams = streams
        self._ledgers_apart = ledgers_apart
        self._logins = logins
        self._parties = [login.party for login in logins]
        self._max_connections = max_connections
        self._sent, self._received = _core_messages(self._parties)

    def lines(self) -> Iterable[str]:
        yield "accounts: {"
        exports = self._service_exports()
        for account in self._streams:
            yield from (
                f"  {account.name}: {{",
                f"    jetstream: {{ max_memory: {account.max_memory}, max_file: {account.max_file} }}",
                "    users: [",
                *_user(account.administrator),
                "    ]",
                "    exports: [",
                *(f"      {one}" for one in exports[account.name]),
                *(f"      {one}" for one in self._audit_exports(account.name)),
                "    ]",
                *self._audit_imports(account.name),
                "  }",
            )
        for index, login in enumerate(self._logins):
            party = login.party
            connections = min(self._max_connections, party.max_connections or self._max_connections)
            limits = f"max_connections: {connections}, max_subscriptions: {party.max_subscriptions}"
            yield from (
                f"  {quoted(party.user)}: {{",
                f"    limits: {{ {limits} }}",
                "    users: [",
                *_user(login),
                "    ]",
                "    imports: [",
                *(f"      {one}" for one in self._imports(index)),
                "    ]",
                "    exports: [",
                *(f"      {one}" for one in self._stream_exports(index)),
                "    ]",
                "  }",
            )
        yield "}"

    def _place(self, party: Party, subject: str) -> tuple[Account, str]:
        """Return the account that what `party` sends to `subject` arrives in, and the subject that it has there."""
        if len(self._streams) == 1:
            return self._streams[0].name, subject
        stored_as = party.stored_as(subject)
        return account_of(subject), ledger_streams.stored_as(stored_as) if self._ledgers_apart else stored_as

    def _service_exports(self) -> dict[Account, list[str]]:
        """Export each subject of the streams once, with the accounts that may import it."""
        first = (self._streams[0].name, _ACCOUNT_INFO, "")
        importers: dict[tuple[Account, str, str], list[str]] = {first: [party.user for party in self._parties]}
        for party in self._parties:
            for subject in party.of("send"):
                importers.setdefault((*self._place(party, subject), ""), []).append(party.user)
            for subject in party.of("pull"):
                importers.setdefault((*self._place(party, subject), ", response_type: stream"), []).append(party.user)
        exports: dict[Account, list[str]] = {account.name: [] for account in self._streams}
        for (account, subject, answers), names in importers.items():
            exports[account].append(f"{{ service: {quoted(subject)}{answers}, accounts: {quoted_list(names)} }}")
        return exports

    def _audit_exports(self, account: Account) -> Iterable[str]:
        """Export what the queue republishes to the account in which it is stored."""
        if len(self._streams) > 1 and account == TASKS:
            yield from (f"{{ stream: {quoted(one)}, accounts: [{BUS}] }}" for one in audit.PUBLISHED)

    def _audit_imports(self, account: Account) -> Iterable[str]:
        if len(self._streams) > 1 and account == BUS:
            yield "    imports: ["
            yield from (
                f"      {{ stream: {{ account: {TASKS}, subject: {quoted(one)} }} }}" for one in audit.PUBLISHED
            )
            yield "    ]"

    def _imports(self, index: int) -> Iterable[str]:
        party = self._parties[index]
        yield _service_import(self._streams[0].name, _ACCOUNT_INFO)
        for subject in (*party.of("send"), *party.of("pull")):
            account, stored_as = self._place(party, subject)
            yield _service_import(account, stored_as, subject)
        for other, subject in self._received[index]:
            yield f"{{ stream: {{ account: {quoted(self._parties[other].user)}, subject: {quoted(subject)} }} }}"

    def _stream_exports(self, index: int) -> Iterable[str]:
        """Export core messages from account to account.

        They cannot pass through the account of the streams: the server does not export as a stream what it imported
        as a service.
        """
        importers: dict[str, list[str]] = {}
        for other, subject in self._sent[index]:
            importers.setdefault(subject, []).append(self._parties[other].user)
        for subject, names in importers.items():
            yield f"{{ stream: {quoted(subject)}, accounts: {quoted_list(names)} }}"


def _service_import(account: Account, subject: str, local: str = "") -> str:
    mapped = f", to: {quoted(local)}" if local not in ("", subject) else ""
    return f"{{ service: {{ account: {account}, subject: {quoted(subject)} }}{mapped} }}"


def _user(login: Login) -> Iterable[str]:
    who = (
        f"nkey: {login.nkey}"
        if login.nkey is not None
        else f"user: {quoted(login.user_name)}, password: {quoted(login.password_hash or '')}"
    )
    yield f"      {{ {who}, permissions: {permission_lists(login.party, indent='      ')} }}"


_Shared: TypeAlias = list[list[tuple[int, str]]]
_ALL: Final = "*"


def _core_messages(parties: Sequence[Party]) -> tuple[_Shared, _Shared]:
    """Return what each party sends to which other one, and what it receives from which: indexes, and the subject.

    Of two overlapping subjects, the narrower one is shared. Only subjects that name the same agent can overlap, or
    those of which one has a wildcard there. So listeners are found by that name: comparing each pair of parties would
    take minutes for some thousand agents, at each change of one of them.

    All are in the order of the parties, in which earlier versions wrote them: an upgrade changes no line for nothing.
    """
    listeners = _listeners(parties)
    all_listeners = [one for of_agent in listeners.values() for one in of_agent]
    sent: _Shared = [[] for _ in parties]
    received: _Shared = [[] for _ in parties]
    for index, party in enumerate(parties):
        for published in party.of("tell"):
            name = _agent_in(published)
            near = all_listeners if name == _ALL else [*listeners.get(name, []), *listeners.get(_ALL, [])]
            for other, subscribed in near:
                shared = _narrower(published, subscribed) if other != index else None
                if shared is not None:
                    sent[index].append((other, shared))
                    received[other].append((index, shared))
        sent[index].sort(key=lambda one: one[0])  # by party; what goes to one stays in order
    return sent, received


def _listeners(parties: Sequence[Party]) -> dict[str, list[tuple[int, str]]]:
    """Return what each party listens to, by the agent that the subject names."""
    found: dict[str, list[tuple[int, str]]] = {}
    for index, party in enumerate(parties):
        for subject in party.of("listen"):
            found.setdefault(_agent_in(subject), []).append((index, subject))
    return found


def _narrower(one: str, other: str) -> str | None:
    """Of two subjects, the one that the other covers; None if neither covers the other."""
    return one if covers(other, one) else other if covers(one, other) else None


def _agent_in(subject: str) -> str:
    """The agent that a subject of core messages names: its second token; `_ALL` for a wildcard."""
    token = "".join(subject.split(".")[1:2])
    return _ALL if token in ("*", ">") else token
