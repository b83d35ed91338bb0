"""The checks on the bus for each role, in the order in which they run."""

from collections.abc import Mapping, Sequence
from typing import Final

from agentbus.admin.doctor.agent.agent_output import check_results
from agentbus.admin.doctor.check_context import Check, Role
from agentbus.admin.doctor.consumer import check_consumer, check_foreign_consumers, check_tasks_in_work
from agentbus.admin.doctor.permissions import check_excessive, check_required
from agentbus.admin.doctor.server import check_clock, check_connections, check_version
from agentbus.admin.doctor.streams import check_all_streams, check_lost_tasks, check_streams
from agentbus.admin.doctor.workers import check_workers

CHECKS: Final[Mapping[Role, Sequence[Check]]] = {
    "worker": (check_version, check_clock, check_consumer, check_required, check_excessive),
    "coordinator": (
        check_version,
        check_clock,
        check_streams,
        check_lost_tasks,
        check_tasks_in_work,
        check_workers,
        check_results,
        check_required,
        check_excessive,
    ),
    "administrator": (
        check_version,
        check_clock,
        check_connections,
        check_all_streams,
        check_lost_tasks,
        check_foreign_consumers,
        check_tasks_in_work,
        check_workers,
        check_required,
    ),
}
