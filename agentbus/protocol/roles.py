"""The roles of coordinators. The permissions of the server hold them; see `agentbus.protocol.permissions`."""

from typing import Literal

from agentbus.protocol import subjects

Role = Literal["operator", "member", "viewer"]
"""What a coordinator may do. An operator gives tasks to every agent, and sees and cancels those of all. A member gives
tasks to its agents, and sees and cancels its own. A viewer sees all, and writes nothing."""


def default_role(coordinator: str) -> Role:
    """Return the role of a coordinator whose configuration names none."""
    return "operator" if coordinator == subjects.COORDINATOR else "member"
