"""What a test needs of the nats-server that it runs with, which `make test-oldest-server` replaces by an older one."""

import subprocess
from typing import Final

import pytest

from agentbus.admin.server_versions import parse_version
from agentbus.provision.nats_server import find_binary


def server_version() -> tuple[int, ...]:
    """The version of the nats-server that the tests start."""
    told = subprocess.run([str(find_binary()), "--version"], capture_output=True, encoding="utf-8", check=True).stdout
    return parse_version(told.split()[-1]) or ()


def without_its_warning(err: str) -> str:
    """Return what a command wrote on standard error but for the warning that its server is old."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("warning: nats-server 2."))


needs_2_12: Final = pytest.mark.skipif(server_version() < (2, 12, 0), reason="an older nats-server divides no ledger")
