"""Types and options that several commands use."""

from collections.abc import Awaitable, Callable
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from agentbus.cli import lazy, output
from agentbus.errors import ConfigError, InvalidIdError
from agentbus.protocol import subjects, task_names

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from agentbus.coordinator import Coordinator

_P = ParamSpec("_P")


class PathType(click.Path):
    """Converts a value to a `pathlib.Path`, and imports pathlib only then."""

    def coerce_path_result(self, value: "str | os.PathLike[str]") -> "Path":  # pyright: ignore[reportIncompatibleMethodOverride]  # click says str or bytes, and takes what `path_type` returns
        """Convert the value."""
        return lazy.pathlib.Path(value)


FILE = PathType(dir_okay=False)
FOLDER = PathType(file_okay=False)
DEFAULT_BUS_FOLDER = "~/.agentbus/bus"


class Count(click.IntRange):
    """A whole number. click calls the type an integer range, in errors and in help."""

    name = "number"


class Amount(click.FloatRange):
    """The same for a number that need not be whole."""

    name = "number"


class AgentId(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic in new versions only
    """Validates an agent id, which may have the prefix `agent-`."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Strip the prefix, and validate the id."""
        try:
            return subjects.agent_id(str(value))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Offer the agents of the bus."""
        del param
        return _items(((agent, None) for agent in lazy.completing.names(ctx)["agents"]), incomplete)


def _items(offered: "Iterable[tuple[str, str | None]]", incomplete: str) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415  # completion alone needs it

    return [CompletionItem(value, help=help_) for value, help_ in offered if value.startswith(incomplete)]


class TaskId(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Validates a task id."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate the id."""
        try:
            return subjects.task_id(str(value))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)


class TaskName(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Validates a task id, or the name of a task, `AGENT/ID` or `AGENT/~OWNER/ID`."""

    name = "TASK"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate the name."""
        try:
            return str(task_names.task_name(str(value)))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Offer the tasks that changed last: their ids or, once an agent is typed, their names."""
        del param
        tasks = lazy.completing.names(ctx)["tasks"]
        by_name = "/" in incomplete
        return _items(((name if by_name else task_id, state) for task_id, name, state in tasks), incomplete)


class GroupName(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Validates the name of a group."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate the name."""
        try:
            return lazy.labels.group_name(str(value))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Offer the groups of the tasks that changed last."""
        del param
        return _items(((group, None) for group in lazy.completing.names(ctx)["groups"]), incomplete)


class QuestionName(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Validates the id of a question: that of a task, or one such as `AGENT/ID#1a2b3c4d-1`."""

    name = "QUESTION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate the id."""
        try:
            return str(lazy.question_ids.parse_question_id(str(value)))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Converts an amount of storage such as 512MiB to bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        try:
            return lazy.storage_sizes.in_bytes(lazy.storage_sizes.storage_size(str(value)))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class Since(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Converts `90s`, `15m`, `2h`, `7d` or a time of ISO 8601 to a time."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "datetime":
        """Return the time, with its time zone: that of this machine where the text names none."""
        try:
            return lazy.past_times.past_time(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """Converts `90`, `30s`, `10m` or `2h` to seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        try:
            return lazy.past_times.duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


# -- how to reach the bus ---------------------------------------------------------------------------------------


def nats_url_option(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--nats-url`."""
    option = click.option(
        "--nats-url",
        metavar="URL",
        help="The bus, e.g. nats://host:4222 or tls://host:4222. Put a password into a file instead (see --config).",
    )
    return option(command)


def config_option(
    help: str = "Configuration of the coordinator; default: $AGENTBUS_NATS_URL, ~/.agentbus/coordinator.toml, "  # noqa: A002  # click's name
    "then the local bus of `agentbus up`.",
    name: str = "config",
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Add `--config`, by default for a configuration of a coordinator."""
    return click.option("--config", name, metavar="FILE", type=FILE, help=help)


def bus_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--nats-url` and `--config`."""
    return nats_url_option(config_option()(command))


def administrator_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--nats-url` and `--config`, by default for the configuration of the administrator."""
    return nats_url_option(
        config_option(
            "Configuration of the administrator; default: $AGENTBUS_NATS_URL, ~/.agentbus/bus/admin.toml, "
            "~/.agentbus/coordinator.toml, then the local bus of `agentbus up`."
        )(command)
    )


def with_coordinator(
    command: "Callable[Concatenate[Coordinator, _P], Awaitable[None]]",
) -> Callable[..., None]:
    """Add `--nats-url` and `--config`, and run the coroutine with the coordinator that they connect."""

    def connect_and_run(nats_url: str | None, config: "Path | None", **options: Any) -> None:
        lazy.session.run_connected(nats_url, config, partial(command, **options))

    return bus_options(update_wrapper(connect_and_run, command))


def with_administrator(
    command: "Callable[Concatenate[Coordinator, _P], Awaitable[None]]",
) -> Callable[..., None]:
    """The same as `with_coordinator` for a command of the administrator."""

    def connect_and_run(nats_url: str | None, config: "Path | None", **options: Any) -> None:
        lazy.session.run_as_administrator(nats_url, config, partial(command, **options))

    return administrator_options(update_wrapper(connect_and_run, command))


bus_folder_option = click.option(
    "--bus",
    "folder",
    metavar="FOLDER",
    type=FOLDER,
    default=DEFAULT_BUS_FOLDER,
    help=f"The folder of the bus.  [default: {DEFAULT_BUS_FOLDER}]",
)


# -- which agents, tasks and how many ---------------------------------------------------------------------------


def agent_option(
    help: str = "Only this agent.",  # noqa: A002  # click's name
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Add `--agent`, by default as a filter."""
    return click.option("--agent", metavar="ID", type=AgentId(), help=help)


def agents_option(help: str) -> Callable[[click.decorators.FC], click.decorators.FC]:  # noqa: A002
    """Add a repeatable `--agent`."""
    return click.option("--agent", "agents", metavar="ID", type=AgentId(), multiple=True, help=f"{help}; repeatable.")


agent_of_task_option = agent_option("The agent that has the task, if several agents have one with this id.")


def limit_option(
    help: str,  # noqa: A002
    *,
    default: int = 20,
    least: int = 1,
    most: int | None = None,
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Add `--limit`."""
    number = Count(least, most)
    return click.option("--limit", metavar="N", type=number, default=default, show_default=True, help=help)


group_option = click.option(
    "--group",
    metavar="NAME",
    type=GroupName(),
    help="The job that the task belongs to: its tasks are listed, awaited and cancelled together.",
)
in_group_option = click.option("--group", metavar="NAME", type=GroupName(), help="Only tasks of this group.")
type_option = click.option("--type", "task_type", metavar="TYPE", help="Only tasks of this type.")
text_option = click.option(
    "--text", metavar="TEXT", help="Only tasks with this in their id, their first words, or their error."
)
owner_option = click.option("--owner", metavar="ID", type=AgentId(), help="Only tasks of this coordinator.")
since_option = click.option(
    "--since", metavar="TIME", type=Since(), help="Not before this time: 90s, 15m, 2h, 7d, or a date."
)


def _remember_format(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[output.FORMAT] = value


output_option = click.option(
    "--output",
    type=click.Choice(("table", "json")),
    expose_value=False,
    callback=_remember_format,
    help="How to print it.  [default: a table on a terminal, JSON in a pipe]",
)

new_agent_option = click.option(
    "--new-agent", is_flag=True, help="Publish also for an agent that this bus has never seen: its worker comes later."
)

timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=Duration(),
    metavar="TIME",
    help="Wait no longer than this: 90 (seconds), 30s, 10m, 2h. The task goes on.  [default: no limit]",
)
