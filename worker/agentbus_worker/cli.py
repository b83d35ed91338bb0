"""`agentbus worker run`: runs a worker with its log and its signals."""

import sys
from pathlib import Path

import click


@click.command(
    "run",
    short_help="Take tasks from the bus and run the agent command for each.",
    epilog="""\b
Examples:
  agentbus worker run
  agentbus worker run --config ~/agents/code.toml""",
)
@click.option(
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration; default: ./agentbus.toml, ~/.agentbus/config.toml, /etc/agentbus/agentbus.toml.",
)
@click.option("--verbose", is_flag=True, help="Log details too, such as deliveries that were not claimed.")
def run(path: Path | None, *, verbose: bool) -> None:
    """Take tasks from the bus and run the agent command for each, until SIGTERM, Ctrl-C or the end of the terminal.

    The first signal lets running tasks finish (drain_timeout_seconds), the second ends them at once. Tasks that did
    not finish return to the queue.
    """
    import asyncio  # noqa: PLC0415
    import contextlib  # noqa: PLC0415
    import faulthandler  # noqa: PLC0415

    from agentbus.config.loading import load_worker  # noqa: PLC0415  # --help must not wait for any of this
    from agentbus.errors import AgentBusError, UnsupportedPlatformError  # noqa: PLC0415

    if sys.platform == "win32":
        raise UnsupportedPlatformError("workers run on Linux and macOS; on Windows use WSL. Everything else works here")

    from agentbus.terminal import guard_log_of_libraries  # noqa: PLC0415
    from agentbus_worker.identity import new_instance  # noqa: PLC0415
    from agentbus_worker.log.handlers import log_to  # noqa: PLC0415
    from agentbus_worker.signals import stop_on_signals  # noqa: PLC0415
    from agentbus_worker.worker import Worker  # noqa: PLC0415

    config, warnings = load_worker(path)
    instance = new_instance()
    agent, state_dir = config.agent.id, config.worker.state_dir
    with log_to(config.log, verbose=verbose, worker=instance, agent=agent, state_dir=state_dir) as log:
        for warning in warnings:
            log.warning("%s", warning)

        async def work() -> None:
            with stop_on_signals() as stop:
                await Worker(config, stop, instance).run()

        guard_log_of_libraries()
        with contextlib.suppress(OSError, RuntimeError):  # there is no standard error
            faulthandler.enable()  # a service manager aborts a worker that hangs: the stacks tell where
        try:
            asyncio.run(work())
        except AgentBusError as error:
            log.error("stopped: %s", error)
            sys.exit(1)  # the log has printed the error on stderr
