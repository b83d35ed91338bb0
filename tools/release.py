"""Checks that a release agrees with itself before anything is built: the version, the tag, the change log.

`make release-check` calls it as `python tools/release.py [TAG]`. The version stands in agentbus/version.py.
What repeats it for others has to say the same: server.json, the tag, the heading in CHANGELOG.md.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version_of(root: Path) -> str:
    """The version of the distribution, read without importing it."""
    text = (root / "agentbus" / "version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('agentbus/version.py: there is no line __version__ = "…"')
    return found[1]


def disagreements(root: Path, tag: str = "") -> Iterator[str]:
    """Yield what does not agree with the version; with a tag, whether the tag and the change log name it, too."""
    version = version_of(root)
    entry = json.loads((root / "server.json").read_text(encoding="utf-8"))
    for place, found in [
        ("version", entry["version"]),
        *((f"packages[{number}].version", package["version"]) for number, package in enumerate(entry["packages"])),
    ]:
        if found != version:
            yield f"server.json: {place} is {found}; agentbus/version.py says {version}"
    if tag:
        if tag != f"v{version}":
            yield f"the tag is {tag}; agentbus/version.py asks for v{version}"
        changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
        if f"\n## [{version}]" not in changes:
            yield f"CHANGELOG.md: there is no heading ## [{version}]; give [Unreleased] its version and date"


def main(tag: str = "") -> int:
    """Print each disagreement; 1 when there is one."""
    found = list(disagreements(ROOT, tag))
    print(*found or [f"version {version_of(ROOT)}{f', tag {tag}' if tag else ''}"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
