"""Paths that begin with `~`: the home folder of this user, who may have none."""

from pathlib import Path

from agentbus.errors import ConfigError


def in_home(path: Path | str) -> Path:
    """Return a path with the home folder in place of its `~`; any other path as it is.

    Raises:
        ConfigError: the home folder is not known. A container that runs under a user id of its own has neither HOME
            nor an entry for that user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"the home folder in {str(path)!r} is not known; set HOME, or name another path") from None


def in_home_if_any(path: Path | str) -> Path | None:
    """The same for a place where something is looked for: without a home folder there is no such place."""
    try:
        return in_home(path)
    except ConfigError:
        return None
