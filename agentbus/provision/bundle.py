"""Writes and reads bundles: one file with all that a machine needs to join a bus, which the operator copies to it."""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from agentbus.config import nkeys
from agentbus.config.private_files import write_private
from agentbus.config.schema import AgentId, Section
from agentbus.config.text_files import ENCODING
from agentbus.config.toml_text import toml_text
from agentbus.config.urls import parse_urls
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.roles import Role
from agentbus.protocol.validation import faults

_MAX_BYTES: Final = 1_000_000
_HEAD: Final = """\
# What {party} needs to join the bus. It holds a secret: carry it over a safe way, and delete it
# once it was used there with: {command}
"""

Auth = Literal["nkey", "password"]
Secret = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


def _url(text: str) -> str:
    try:
        servers = parse_urls(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if any(server.user is not None for server in servers):
        raise ValueError("the URL must be without credentials")
    return text


class Bundle(Section):
    """The credential of one party, and the address and CA of its bus. `repr()` does not show the secret.

    Attributes:
        role: `coordinator` is `main`; the three others are those of named coordinators, which earlier versions refuse.
        may_task: of an agent, the agents that its workers may give tasks to.
        agents: of a member, the agents that it may give tasks to; None for all.
        tasks_secret: the administrator's second secret, where the queue has an account of its own.
    """

    version: Literal[1] = 1
    role: Literal["worker", "coordinator", "administrator"] | Role
    id: AgentId
    may_task: tuple[AgentId, ...] = ()
    agents: tuple[AgentId, ...] | None = None
    url: Annotated[str, AfterValidator(_url)]
    auth: Auth
    secret: Annotated[Secret, Field(repr=False)]
    tasks_secret: Annotated[Secret | None, Field(repr=False)] = None
    ca: Annotated[str, Field(max_length=100_000)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Bundle":
        if self.agents is not None and self.role != "member":
            raise ValueError("agents is for members")
        return self

    @property
    def secret_name(self) -> str:
        """The name of the file that holds the secret on the machine of the party."""
        return secret_name(self.auth, self.id)

    @property
    def tasks_secret_name(self) -> str:
        """The name of the file that holds the second secret there."""
        return tasks_secret_name(self.auth, self.id)


class _File(Section):
    bundle: Bundle


def bundle_text(bundle: Bundle) -> str:
    """Return the content of a bundle file."""
    party = {
        "worker": f"a worker of the agent {bundle.id}",
        "coordinator": "the coordinator",
        "administrator": "the administrator",
    }.get(bundle.role, f"the coordinator {bundle.id} ({bundle.role})")
    command = (
        "agentbus worker init --bundle FILE" if bundle.role == "worker" else "agentbus coordinator init --bundle FILE"
    )
    values = {**bundle.model_dump(), "may_task": bundle.may_task or None}
    return _HEAD.format(party=party, command=command) + toml_text({"bundle": values})


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle file, for its owner alone.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    write_private(path, bundle_text(bundle))


def secret_name(auth: Auth, party: str) -> str:
    """Return the name of the file that holds the secret of a party."""
    return f"{party}.nk" if auth == "nkey" else f"{party}.password"


def tasks_secret_name(auth: Auth, party: str) -> str:
    """Return the name of the file that holds the administrator's secret for the account of the queue."""
    return secret_name(auth, f"{party}.tasks")


def tasks_user(user: str) -> str:
    """Return the administrator's user in the account of the queue: two accounts cannot have a user of the same name."""
    return f"{user}.tasks"


def sign_in(auth: Auth, name: str, secret: Path, tasks_secret: Path | None = None) -> dict[str, str | Path]:
    """Return the keys of `[nats]` that name a credential, or the two of an administrator."""
    user = subjects.address(name)
    if auth == "nkey":
        return {"nkey_file": secret, **({"tasks_nkey_file": tasks_secret} if tasks_secret else {})}
    second = {"tasks_user": tasks_user(user), "tasks_password_file": tasks_secret} if tasks_secret else {}
    return {"user": user, "password_file": secret, **second}


def read_bundle(path: Path) -> Bundle:
    """Read a bundle.

    Raises:
        ConfigError: the file cannot be read, or is no bundle; the error does not quote its content, which is secret.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError
        values = tomllib.loads(data.decode(ENCODING))
        bundle = _File.model_validate(values).bundle
    except ValidationError as error:
        place = ", ".join(sorted({".".join(fault.place[1:]) or "bundle" for fault in faults(error)}))
        raise ConfigError(f"{path} is not a bundle that this version of agentbus can use: look at {place}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not a bundle; make one with: agentbus agent bundle ID") from None
    if bundle.auth == "nkey":
        try:
            for seed in filter(None, (bundle.secret, bundle.tasks_secret)):
                nkeys.check_seed(seed)
        except ConfigError as error:
            raise ConfigError(f"the secret in {path} cannot be used: {error}") from None
    return bundle
