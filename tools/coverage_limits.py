"""Prints how much of each folder the tests reach, and holds the limits; the last step of `make coverage`.

Reads the JSON report of coverage.py. The figure is coverage.py's own: lines and branches together.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

# These decide whether a task has its one result, so a path that no test takes is a risk there.
LIMITS = {
    "worker/agentbus_worker/settling": 97.0,
    "agentbus/tasks": 97.0,
    "agentbus/bus": 97.0,
}
LIMIT_IN_ALL = 95.0


@dataclass
class Reached:
    """Lines and branches, and how many of them the tests reached."""

    lines: int = 0
    lines_reached: int = 0
    branches: int = 0
    branches_reached: int = 0

    def add(self, summary: dict[str, Any]) -> None:
        """Count a file, or a folder, of the report in."""
        self.lines += summary["num_statements"]
        self.lines_reached += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.branches_reached += summary["covered_branches"]

    @property
    def percent(self) -> float:
        """What coverage.py calls the percentage covered."""
        there = self.lines + self.branches
        return 100.0 * (self.lines_reached + self.branches_reached) / there if there else 100.0


def by_folder(report: dict[str, Any]) -> dict[str, Reached]:
    """Each folder of the report with its own modules, and each folder that has a limit with its sub-folders too."""
    folders: defaultdict[str, Reached] = defaultdict(Reached)
    for name, file in report["files"].items():
        folder = PurePosixPath(name.replace("\\", "/")).parent
        limited = [parent for parent in folder.parents if str(parent) in LIMITS]
        for counted in (folder, *limited):
            folders[str(counted)].add(file["summary"])
    return dict(sorted(folders.items()))


def table(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The lines to print, and one for each limit that does not hold."""
    folders = by_folder(report)
    in_all = Reached()
    for file in report["files"].values():
        in_all.add(file["summary"])
    lines = [f"{'folder':48} {'lines':>7} {'branches':>8} {'missed':>7} {'reached':>8} {'limit':>6}"]
    broken: list[str] = []
    for name, reached in [*folders.items(), ("in all", in_all)]:
        limit = LIMIT_IN_ALL if name == "in all" else LIMITS.get(name)
        missed = reached.lines - reached.lines_reached + reached.branches - reached.branches_reached
        held = f"{limit:5.0f}%" if limit else ""
        lines.append(
            f"{name:48} {reached.lines:7} {reached.branches:8} {missed:7} {reached.percent:7.2f}% {held:>6}".rstrip()
        )
        if limit and reached.percent < limit:
            broken.append(f"{name}: {reached.percent:.2f} % is reached; the limit is {limit:g} %")
    broken += [f"{name}: not in the report, though it has a limit" for name in LIMITS if name not in folders]
    return lines, broken


def main(path: Path) -> int:
    """Print the table of the report at `path`; 1 when a limit does not hold."""
    lines, broken = table(json.loads(path.read_text(encoding="utf-8")))
    print(*lines, *broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
