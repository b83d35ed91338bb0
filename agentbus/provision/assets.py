"""Finds the files that come with agentbus and are not code: the skill, example configurations, service units."""

from pathlib import Path
from typing import Final

from agentbus.errors import AssetError

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def asset(name: str) -> Path:
    """Return the path of a shipped file or folder, such as `skills/agentbus` or `config/nats-server.conf`.

    An installed package contains them; in a checkout they are in the folder above it.

    Raises:
        AssetError: this installation has no such file.
    """
    folder = _PACKAGE / "_assets"
    if not folder.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        folder = _PACKAGE.parent
    path = folder / name
    if not path.exists():
        raise AssetError(f"{name} is not part of this installation of agentbus ({_PACKAGE}); install it again")
    return path
