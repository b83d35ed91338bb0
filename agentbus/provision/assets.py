"""The files that come with agentbus and are not code: the skill, the example configurations, the service units."""

from pathlib import Path
from typing import Final

from agentbus.errors import AgentBusError

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def asset(name: str) -> Path:
    """The path of a shipped file or folder, such as `skills/agentbus` or `config/nats-server.conf`.

    An installed package carries them inside itself; in a checkout they lie beside it.

    Raises:
        AgentBusError: this installation has no such file.
    """
    folder = _PACKAGE / "_assets"
    if not folder.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        folder = _PACKAGE.parent
    path = folder / name
    if not path.exists():
        raise AgentBusError(f"{name} is not part of this installation of agentbus ({_PACKAGE}); install it again")
    return path
