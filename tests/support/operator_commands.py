"""Runs the commands of an operator, and keeps what they printed."""

from pathlib import Path

from agentbus.provision.bus_folder.folder import BusFolder
from support.harness import Ran, run_cli


class Operator:
    """Runs commands of `agentbus`; each must succeed. `output` is what all of them printed."""

    def __init__(self) -> None:
        self.output = ""

    async def run(self, *words: str | Path) -> Ran:
        ran = await run_cli(*map(str, words))
        self.output += ran.out + ran.err
        assert ran.code == 0, ran.err
        return ran


def secrets_in(bus: BusFolder) -> set[str]:
    """Return the secrets of all parties of a bus."""
    return {path.read_text(encoding="utf-8").strip() for path in (bus.path / "credentials").iterdir()}
