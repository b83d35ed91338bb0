"""`agentbus demo`: shows the main job on a temporary bus, step by step."""

import click

from agentbus.cli import lazy


@click.command(
    short_help="See the whole thing work, on a bus of its own.",
    epilog="""\b
Examples:
  agentbus demo""",
)
def demo() -> None:
    """See the whole thing work on this machine, in about fifteen seconds.

    It starts a real nats-server, three real workers and a coordinator in a temporary folder, and removes the folder
    afterwards. It exits with 1 if a step does not come out as expected.
    """
    lazy.asyncio.run(lazy.scenario.run())
