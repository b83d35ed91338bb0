"""Names this process among all workers, and its host, whatever the host is called."""

import os
import re
import secrets
import socket
from typing import Final

_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_HOST_CHARS: Final = 64
"""The longest name that Linux lets a host have."""


def new_instance() -> str:
    """Make a name that no other worker has: the host as far as a subject can carry it, the pid, and a random part."""
    host = _NO_TOKEN.sub("-", host_name().partition(".")[0]).strip("-")[:_MAX_HOST_CHARS]
    return f"{host or 'host'}-{os.getpid()}-{secrets.token_hex(3)}"


def host_name() -> str:
    """Return the name of this host for people to read. It need not be UTF-8; what is not becomes a question mark."""
    return socket.gethostname().encode(errors="replace").decode()
