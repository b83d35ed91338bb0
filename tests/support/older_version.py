"""An earlier version of agentbus, from the history of this repository, with the dependencies of this one."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from support.harness import ROOT

BEFORE_NEEDS = "494a9a9"
"""The last version whose workers know the first form of tasks alone."""


def environment_of(commit: str, folder: Path) -> dict[str, str]:
    """Write the packages of a commit into `folder`; return the environment in which `python -m agentbus` runs them.

    The test is skipped where the history is not there, as in a shallow clone or a source distribution.
    """
    archive = ["git", "archive", commit, "agentbus", "worker"]
    try:
        packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"the commit {commit} is not in this copy of the repository")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(folder / "worker"))), "PYTHONSAFEPATH": "1"}
