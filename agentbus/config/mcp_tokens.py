"""The named tokens of the MCP server over HTTP: a file with the hash and the coordinator of each."""

import hashlib
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError, model_validator

from agentbus.config.schema import FilePath, Section
from agentbus.config.text_files import ENCODING, reason_of
from agentbus.config.toml_text import toml_text
from agentbus.errors import ConfigError
from agentbus.protocol.ids import random_token
from agentbus.protocol.validation import fault_line

_TOKEN_CHARS: Final = 52
"""255 random bits. No list of likely tokens holds it, so a fast hash without salt keeps it as well as a slow one."""
_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_OF_OTHERS: Final = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH

TokenName = Annotated[str, Field(pattern=_NAME)]


class NamedToken(Section):
    """A token, and the configuration file of the coordinator whose client it makes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    coordinator: FilePath


class TokensFile(Section):
    """Everything in the file: `[tokens.alice]`, `[tokens.bob]`."""

    tokens: dict[TokenName, NamedToken]

    @model_validator(mode="after")
    def _check(self) -> "TokensFile":
        if len({token.sha256 for token in self.tokens.values()}) < len(self.tokens):
            raise ValueError("two names have the same token")
        return self


def new_token() -> str:
    """Make a token that cannot be guessed."""
    return f"agentbus-{random_token(_TOKEN_CHARS)}"


def named_token(name: str, token: str, coordinator: Path) -> NamedToken:
    """The entry of a token under a name.

    Raises:
        ConfigError: the name cannot be one.
    """
    if not re.fullmatch(_NAME, name):
        raise ConfigError(f"{name!a} is no name of a token: lower-case letters, digits, '-' and '_', at most 63")
    return NamedToken(sha256=hash_of(token), coordinator=coordinator)


def hash_of(token: str) -> str:
    """The hash that the file holds of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> dict[str, NamedToken]:
    """Read the tokens by their names. A relative path of a coordinator begins at the folder of the file.

    Raises:
        ConfigError: it cannot be read or is wrong, or other users can read or change it. No value is quoted.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
        values = tomllib.loads(data.decode(ENCODING))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {reason_of(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    if os.name == "posix" and mode & _OF_OTHERS:
        raise ConfigError(f"other users can read or change {path}; run: chmod 600 {shlex.quote(str(path))}")
    try:
        tokens = TokensFile.model_validate(values).tokens
    except ValidationError as error:
        raise ConfigError(f"{path}: {fault_line(error, 'the file')}") from None
    return {
        name: token.model_copy(update={"coordinator": path.parent / token.coordinator})
        for name, token in tokens.items()
    }


def tokens_text(tokens: Mapping[str, NamedToken]) -> str:
    """The text of a file with these tokens."""
    return toml_text({"tokens": {name: token.model_dump(mode="python") for name, token in sorted(tokens.items())}})
