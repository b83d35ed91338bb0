"""`agentbus demo`: the main job on a temporary bus, told as a story."""

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

    A real nats-server, three real workers and a coordinator, in a temporary folder that is removed afterwards. Ends
    with exit code 1 if anything is not as it should be.
    """
    lazy.asyncio.run(lazy.story.run())
