"""What the configuration of a coordinator may say, and what it shares with that of a worker: keys, defaults, bounds."""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from agentbus.config.home import in_home
from agentbus.errors import ConfigError, InvalidIdError
from agentbus.protocol import subjects
from agentbus.protocol.roles import Role, default_role

DEFAULT_URL: Final = "nats://127.0.0.1:7422"
SECRET_FILES: Final = ("password_file", "token_file", "nkey_file", "creds_file")
"""The keys of `[nats]` that name a file with a secret; a connection takes one of them."""
SECRET_FILES_OF_QUEUE: Final = ("tasks_password_file", "tasks_nkey_file")
"""The same for the administrator's second user."""


def _reraise(check: Any, text: str) -> str:
    try:
        return check(text)
    except InvalidIdError as error:
        raise ValueError(str(error)) from None


def _home(path: Path) -> Path:
    try:
        return in_home(path)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _unquoted(value: Any) -> Any:
    """Refuse a number in quotes, which is a mistake here or elsewhere in the line."""
    if isinstance(value, str | bool):
        quotes = ", without quotes" if isinstance(value, str) else ""
        raise ValueError(f"must be a number{quotes}")  # noqa: TRY004  # what pydantic takes for a fault of the value
    return value


AgentId = Annotated[str, AfterValidator(lambda text: _reraise(subjects.configured_agent_id, text))]
Name = Annotated[str, AfterValidator(lambda text: _reraise(subjects.stream_name, text))]
FilePath = Annotated[Path, AfterValidator(_home)]
Unquoted = BeforeValidator(_unquoted)
Seconds = Annotated[float, Unquoted, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of a configuration: unknown keys are errors, and errors do not quote values."""

    # Built at its first use: a coordinator never needs the sections of a worker, and a command should start at once.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class NatsSection(Section):
    """How to reach the bus and who to be there."""

    url: str = Field(repr=False)
    user: str | None = None
    password_file: FilePath | None = None
    token_file: FilePath | None = None
    nkey_file: FilePath | None = None
    creds_file: FilePath | None = None
    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    tls_first: StrictBool = False
    inbox_prefix: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "NatsSection":
        if self.password_file and not self.user:
            raise ValueError("password_file needs user")
        named = [key for key in SECRET_FILES if getattr(self, key)]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other")
        if self.key_file and not self.cert_file:
            raise ValueError("key_file needs cert_file")
        return self


class CoordinatorNatsSection(NatsSection):
    """The same for a coordinator; an administrator may have a second user, in the account of the queue."""

    tasks_user: str | None = None
    tasks_password_file: FilePath | None = None
    tasks_nkey_file: FilePath | None = None

    @model_validator(mode="after")
    def _check_second(self) -> "CoordinatorNatsSection":
        if self.tasks_password_file and not self.tasks_user:
            raise ValueError("tasks_password_file needs tasks_user")
        if self.tasks_password_file and self.tasks_nkey_file:
            raise ValueError("tasks_password_file and tasks_nkey_file exclude each other")
        return self


class CoordinatorSection(Section):
    """Who the coordinator is: the sender of its tasks and the inbox that it reads.

    Attributes:
        agents: of a member, the agents that it may give tasks to; None for all.
    """

    id: AgentId = subjects.COORDINATOR
    role: Role | None = None
    agents: tuple[AgentId, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> "CoordinatorSection":
        if self.id == subjects.COORDINATOR and self.role not in (None, "operator"):
            raise ValueError(f"role: {self.id} is an operator on every bus; give a {self.role} an id of its own")
        if self.agents is not None and self.effective_role != "member":
            raise ValueError("agents is for members, and this coordinator is none; leave it out")
        return self

    @property
    def effective_role(self) -> Role:
        """What the bus lets this coordinator do: the role that is set, or the one that follows from the id."""
        return self.role or default_role(self.id)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or one that begins with ~")
    return path


class McpSection(Section):
    """What the MCP server of a coordinator may do on its machine.

    Attributes:
        folders: below which it sends files with tasks, and saves those that runs have left; None for nowhere.
    """

    folders: tuple[Annotated[FilePath, AfterValidator(_absolute)], ...] | None = None


class CoordinatorConfig(Section):
    """Everything that the command line and the MCP server need."""

    nats: CoordinatorNatsSection = Field(default_factory=lambda: CoordinatorNatsSection(url=DEFAULT_URL))
    coordinator: CoordinatorSection = Field(default_factory=CoordinatorSection)
    mcp: McpSection = Field(default_factory=McpSection)
