"""Ports for servers that bind them later, or come back on them: no other process of the tests is given the same."""

import os
import socket
from collections.abc import Iterator

_HOST = "127.0.0.1"
_FIRST, _BLOCKS, _BLOCK = 20_000, 240, 50
"""Below the ports that systems give to outgoing connections and to servers that ask for any: Linux begins at 32,768."""


def free_port() -> int:
    """Return a port that nothing listens on, and that no call in any process of the tests returns as well.

    It is this process's until it ends: what listened on it may be stopped, and come back.
    """
    return next(_ports)


def _own_ports() -> Iterator[int]:
    offset = os.getpid() * 7  # processes that start one after the other seldom ask for the same block
    for number in range(_BLOCKS):
        first = _FIRST + (offset + number) % _BLOCKS * _BLOCK
        held = _bound(first)
        if held is None:
            continue
        held.detach()  # stays bound until this process ends: the block belongs to who holds its first port
        for port in range(first + 1, first + _BLOCK):
            if (probe := _bound(port)) is not None:
                probe.close()
                yield port
    raise AssertionError(f"no free port from {_FIRST} to {_FIRST + _BLOCKS * _BLOCK - 1}")


def _bound(port: int) -> socket.socket | None:
    """Bind a port, without listening on it."""
    tried = socket.socket()
    try:
        tried.bind((_HOST, port))
    except OSError:
        tried.close()
        return None
    return tried


_ports = _own_ports()
