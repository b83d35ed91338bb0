"""Checks that nats-py has the private names that `agentbus.bus` relies on, before a server is dialled.

If nats-py renames an overridden method, the override is never called, and no error shows it: with `_connect_command`
renamed, a `tls://` address would connect without TLS. So the tables here list every overridden or used name, and the
program refuses to start if one is missing or has another shape. No other module imports nats-py, so a version that
lacks one of its modules is refused in the same way.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple

from agentbus.errors import IncompatibleClientError

TESTED: Final = "nats-py>=2.16,<2.17"
"""The versions that the tests run with, as in pyproject.toml: one minor version, since private names may change."""

try:
    from nats import errors
    from nats.aio.client import Client as NatsClient
    from nats.aio.client import Srv
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.aio.transport import TcpTransport
    from nats.protocol import parser
    from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser
except ImportError as error:
    raise IncompatibleClientError(str(error.name or "nats"), f"cannot be imported ({error})", TESTED) from error

__all__ = [
    "AWAITING_MSG_PAYLOAD",
    "Msg",
    "NatsClient",
    "Subscription",
    "check",
    "check_transport",
    "errors",
    "read_as_written",
]


class Method(NamedTuple):
    """A method of nats-py's client that agentbus overrides or calls.

    Attributes:
        parameters: all of them in order, without `self`; nats-py passes these to an override.
        called_by: functions of nats-py that must call it, as the override would have no effect otherwise.
    """

    name: str
    parameters: tuple[str, ...] = ()
    is_async: bool = True
    called_by: tuple[str, ...] = ()


OVERRIDDEN: Final = (
    Method("_connect_command", is_async=False, called_by=("Client._process_connect_init",)),
    Method("_connect_to_server", ("s",), called_by=("Client._select_next_server",)),
    Method("_process_connect_init", called_by=("Client.connect", "Client._attempt_reconnect")),
    Method("_process_info", ("info", "initial_connection"), called_by=("Client._process_connect_init", "Parser.parse")),
    Method("_process_err", ("err_msg",), called_by=("Parser.parse",)),
    Method("_process_msg", ("sid", "subject", "reply", "data", "headers"), called_by=("Parser.parse",)),
    Method("_remove_sub", ("sid", "max_msgs"), is_async=False, called_by=("Subscription.unsubscribe",)),
    Method("_flush_pending", ("force_flush",), called_by=("Client._send_subscribe", "Client.flush")),
    Method("_close", ("status", "do_cbs"), called_by=("Client.close", "Client._process_op_err")),
)
CALLED: Final = (Method("_process_op_err", ("e",)), Method("_send_ping", ("future",)))
PROPERTIES: Final = {"ssl_context": ("Client._process_connect_init",)}
"""Overridden properties, and the functions of nats-py that must read them."""
ATTRIBUTES: Final[dict[str, type | None]] = {
    "_auth_configured": bool,
    "_current_server": None,
    "_flush_queue": None,
    "_max_pending_size": int,
    "_pending": list,
    "_pending_data_size": int,
    "_ps": Parser,
    "_public_nkey": None,
    "_server_info": dict,
    "_server_pool": list,
    "_sid": int,
    "_signature_cb": None,
    "_transport": None,
    "_user_jwt_cb": None,
    "options": dict,
}
"""Attributes that `Client.__init__` sets, with the type of the value; None where the value is None."""
PARSER_ATTRIBUTES: Final[dict[str, type]] = {"buf": bytearray, "needed": int, "state": int}
"""Attributes that `Parser.__init__` sets, with the type of the value."""
TRANSPORT_ATTRIBUTES: Final = ("_bare_io_writer", "_io_reader", "_io_writer")
SERVER_FIELDS: Final = ("uri", "tls_name")
MESSAGE_FIELDS: Final = ("_client", "subject", "reply", "data", "headers")
"""The first fields of a message, in the order of its positional arguments."""
ERRORS: Final = (
    "AuthorizationError",
    "BadHeaderError",
    "BadSubjectError",
    "ConnectionClosedError",
    "Error",
    "StaleConnectionError",
)
HEADS: Final[Mapping[str, re.Pattern[bytes]]] = {
    "MSG_RE": re.compile(rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"),
    "HMSG_RE": re.compile(rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+(\d+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"),
}
"""The heads of messages by the server's rules: what ends a token is a blank, a tab or a line end.

nats-py's own patterns let it end at a form feed and a vertical tab as well. One message with such a subject would end
the connection of everyone who reads its stream, again and again.
"""
_CLASSES: Final[dict[str, type]] = {"Client": NatsClient, "Parser": Parser, "Subscription": Subscription}


def check() -> None:
    """Check everything that can be checked before a server is dialled.

    Raises:
        IncompatibleClientError: nats-py lacks a name, or it has another shape.
    """
    for method in (*OVERRIDDEN, *CALLED):
        _check_method(method)
    for name in PROPERTIES:
        if not isinstance(inspect.getattr_static(NatsClient, name, None), property):
            raise _broken(f"Client.{name}", "is not a property")
    for method in OVERRIDDEN:
        _check_callers(method.name, method.called_by)
    for name, readers in PROPERTIES.items():
        _check_callers(name, readers)
    for name in HEADS:
        if not isinstance(vars(parser).get(name), re.Pattern):
            raise _broken(f"parser.{name}", "is not a pattern")
        _check_uses(f"parser.{name}", name, "Parser.parse")
    _check_errors()
    _check_records()
    _check_client(NatsClient())
    check_transport(TcpTransport())


def _check_errors() -> None:
    for name in ERRORS:
        found: Any = getattr(errors, name, None)
        if not (isinstance(found, type) and issubclass(found, Exception)):
            raise _broken(f"nats.errors.{name}", "is not an exception")


def _check_records() -> None:
    server = [field.name for field in fields(Srv)]
    for name in SERVER_FIELDS:
        if name not in server:
            raise _broken(f"Srv.{name}", "is missing")
    message = tuple(field.name for field in fields(Msg))
    if message[: len(MESSAGE_FIELDS)] != MESSAGE_FIELDS:
        raise _broken("Msg", f"begins with the fields {', '.join(message[: len(MESSAGE_FIELDS)])}")


def _check_client(client: NatsClient) -> None:
    for name, kind in ATTRIBUTES.items():
        if name not in vars(client):
            raise _broken(f"Client.{name}", "is missing")
        if kind is not None and not isinstance(vars(client)[name], kind):
            raise _broken(f"Client.{name}", f"is not of the type {kind.__name__}")
    _check_parser(Parser(client))


def _check_parser(found: Parser) -> None:
    for name, kind in PARSER_ATTRIBUTES.items():
        if not isinstance(vars(found).get(name), kind):
            raise _broken(f"Parser.{name}", f"is missing, or not of the type {kind.__name__}")
    if found.state == AWAITING_MSG_PAYLOAD:
        raise _broken("Parser.state", "says at first that a message is under way")


def check_transport(transport: object) -> None:
    """Check the transport of a connection; called before credentials are sent over it.

    Raises:
        IncompatibleClientError: see `check`.
    """
    for name in TRANSPORT_ATTRIBUTES:
        if not hasattr(transport, name):
            raise _broken(f"{type(transport).__name__}.{name}", "is missing")


def read_as_written(client: NatsClient) -> None:
    """Have a client read the heads of messages by `HEADS`; other clients of nats-py in this process keep their way."""
    parse = FunctionType(Parser.parse.__code__, {**vars(parser), **HEADS}, "parse", Parser.parse.__defaults__)
    client._ps.parse = MethodType(parse, client._ps)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _check_method(method: Method) -> None:
    found: Any = inspect.getattr_static(NatsClient, method.name, None)
    name = f"Client.{method.name}"
    if not inspect.isfunction(found):
        raise _broken(name, "is missing" if found is None else "is not a method")
    parameters = tuple(inspect.signature(found).parameters)[1:]
    if parameters != method.parameters:
        raise _broken(name, f"takes ({', '.join(parameters)}) in place of ({', '.join(method.parameters)})")
    if inspect.iscoroutinefunction(found) is not method.is_async:
        raise _broken(name, "is not async" if method.is_async else "is async")


def _check_callers(name: str, callers: tuple[str, ...]) -> None:
    for caller in callers:
        _check_uses(f"Client.{name}", name, caller)


def _check_uses(part: str, name: str, user: str) -> None:
    owner, _, function = user.partition(".")
    found: Any = inspect.getattr_static(_CLASSES[owner], function, None)
    if not inspect.isfunction(found) or name not in found.__code__.co_names:
        raise _broken(part, f"is not used by {user}")


def _broken(name: str, what: str) -> IncompatibleClientError:
    return IncompatibleClientError(name, what, TESTED)
