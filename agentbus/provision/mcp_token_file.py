"""Changes the file of named tokens of the MCP server over HTTP: adds, replaces and removes, one command at a time."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from agentbus.config.home import in_home
from agentbus.config.loading import load_coordinator
from agentbus.config.mcp_tokens import NamedToken, named_token, new_token, read_tokens, tokens_text
from agentbus.config.private_files import private_folder, write_private
from agentbus.errors import ConfigError
from agentbus.provision.folder_lock import locked


def add(file: Path, name: str, coordinator: Path) -> str:
    """Add a token under a name, and return it; the file keeps its hash.

    Raises:
        ConfigError: the name has a token, or cannot have one; or the file or the configuration cannot be used.
    """
    coordinator = in_home(coordinator).absolute()
    load_coordinator(path=coordinator)  # reports a mistake here, not when the server reads it
    token = new_token()
    with _changing(file) as tokens:
        if name in tokens:
            raise ConfigError(f"{name} has a token already; `agentbus mcp token rotate {name}` replaces it")
        tokens[name] = named_token(name, token, coordinator)
    return token


def rotate(file: Path, name: str) -> str:
    """Replace the token of a name, and return the new one.

    Raises:
        ConfigError: the name has no token, or the file cannot be used.
    """
    token = new_token()
    with _changing(file) as tokens:
        tokens[name] = named_token(name, token, _known(tokens, name).coordinator)
    return token


def remove(file: Path, name: str) -> None:
    """Remove the token of a name.

    Raises:
        ConfigError: the name has no token, or the file cannot be used.
    """
    with _changing(file) as tokens:
        _known(tokens, name)
        del tokens[name]


@contextmanager
def _changing(file: Path) -> Generator[dict[str, NamedToken]]:
    """Yield the tokens of a file, and write them at the end of the block."""
    file = in_home(file)
    private_folder(file.parent)
    with locked(file.parent, "the tokens"):
        tokens = read_tokens(file) if file.exists() else {}
        yield tokens
        write_private(file, tokens_text(tokens), replace=True)


def _known(tokens: dict[str, NamedToken], name: str) -> NamedToken:
    if name not in tokens:
        raise ConfigError(f"there is no token of {name}; there are: {', '.join(tokens) or 'none'}")
    return tokens[name]
