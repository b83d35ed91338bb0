"""Runs the code of an earlier version: its wheel, unpacked, on the dependencies of today's environment.

The wheel was made from the commit in its name, and nothing in it was changed:

    git checkout 494a9a9 && SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) python -m hatchling build -t wheel

The commit stands in the file name as a build tag, because the version did not change since.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from support.harness import ROOT, Ran, run_cli, run_python

WHEEL = ROOT / "tests" / "recorded" / "agentbus_mcp-0.1.0-494a9a9-py3-none-any.whl"


@dataclass(frozen=True)
class OldVersion:
    """An earlier version, unpacked into a folder."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """The variables with which Python runs the old code in place of the installed one."""
        return {
            "PYTHONPATH": str(self.folder),
            # Without this, `python -m` looks into the current folder first: into this project.
            "PYTHONSAFEPATH": "1",
            # `make coverage` measures today's code only.
            "COVERAGE_PROCESS_CONFIG": "",
            "COVERAGE_PROCESS_START": "",
        }

    async def cli(self, *args: str) -> Ran:
        """Run the old `agentbus ARGS`."""
        return await run_cli(*args, env=self.env)

    async def python(self, *args: str) -> Ran:
        """Run `python ARGS`, which imports the old code."""
        return await run_python(*args, env=self.env)


def unpack(folder: Path) -> OldVersion:
    """Unpack the wheel into a folder that is empty."""
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    return OldVersion(folder)
