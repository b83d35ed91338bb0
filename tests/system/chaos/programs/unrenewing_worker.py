"""A worker that never renews a lease, so that others run its tasks, too: what the storm must find."""

from agentbus_worker.__main__ import main
from agentbus_worker.settling.lease import Lease


def renew_never(self: Lease) -> None:
    """Leave the lease as it is."""


if __name__ == "__main__":
    Lease.renew_now = renew_never
    main()
