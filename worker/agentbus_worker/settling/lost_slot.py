"""Gives up the slot of a command that could not be ended, until it ends after all."""

from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.command import Child
from agentbus_worker.running.unended import Unended
from agentbus_worker.settling.slots import Reservation


def lose_slot(reservation: Reservation, child: Child, unended: Unended, log: TaskLog) -> None:
    """Keep the slot taken for as long as the command lives; log its processes, and later their end."""
    regain = reservation.lose()

    def gone() -> None:
        regain()
        log.info("its command has ended after all; its slot is free again")

    child.on_gone(gone)
    pids = ", ".join(map(str, unended.pids))
    log.error("its command could not be ended: it %s; its slot is lost until it ends", unended.why, pids=pids)
