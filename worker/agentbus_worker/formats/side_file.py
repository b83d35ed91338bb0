"""A file in which an agent says what it does not print, if it is asked to."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SideFile:
    """What asks an agent for such a file.

    Attributes:
        name: of the file, in the temporary folder of the run.
        variable: names the file to the agent.
        environment: what the agent needs in its environment besides.
    """

    name: str
    variable: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
