"""Names this process among all workers, its host, whatever the host is called, and the machine on which it runs."""

import functools
import hashlib
import os
import re
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_NO_TOKEN: Final = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_HOST_CHARS: Final = 64
"""The longest name that Linux lets a host have."""


def new_instance() -> str:
    """Make a name that no other worker has: the host as far as a subject can carry it, the pid, and a random part."""
    host = _NO_TOKEN.sub("-", host_name().partition(".")[0]).strip("-")[:_MAX_HOST_CHARS]
    return f"{host or 'host'}-{os.getpid()}-{secrets.token_hex(3)}"


def machine_name() -> str:
    """Return a name of this machine that tells nothing of it where it has an id, and the name of the host else."""
    return _machine() or host_name()


def host_name() -> str:
    """Return the name of this host for people to read. It need not be UTF-8; what is not becomes a question mark."""
    return socket.gethostname().encode(errors="replace").decode()


class Place(NamedTuple):
    """Where a process runs: the machine, its boot, and the namespace of the process ids that it sees.

    What is not known is empty, and then nothing follows from it. All of it is known on Linux alone.
    """

    machine: str = ""
    boot: str = ""
    processes: str = ""

    @classmethod
    def here(cls) -> "Place":
        """Return the place of this process."""
        if sys.platform != "linux":
            return cls()
        processes = ""
        with suppress(OSError):
            processes = str(Path("/proc/self/ns/pid").readlink())
        return cls(_machine(), boot_id(), processes)

    def sees(self, other: "Place") -> bool:
        """Whether a process here sees the processes that run there, if any still do."""
        return bool(self.boot and self.processes) and (self.boot, self.processes) == (other.boot, other.processes)

    def was_restarted_since(self, other: "Place") -> bool:
        """Whether the machine has been started again since that place, so that no process of it can be left."""
        return bool(self.machine and self.boot and other.boot) and (
            self.machine == other.machine and self.boot != other.boot
        )


@functools.cache
def boot_id() -> str:
    """Return what names this boot of this machine (Linux); empty if it is not known."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _machine() -> str:
    """Return a name of this machine that tells nothing of it; empty if it has none.

    Machines that were cloned have one id, and different names as a rule.
    """
    with suppress(OSError, UnicodeError):
        if machine := Path("/etc/machine-id").read_text(encoding="ascii").strip():
            return hashlib.sha256(f"{machine} {host_name()}".encode()).hexdigest()[:32]
    return ""
