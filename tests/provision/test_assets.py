"""Shipped files are found from a checkout and from an installed wheel, in any working folder."""

import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from agentbus.errors import AgentBusError
from agentbus.provision.assets import asset
from agentbus.version import __version__
from support.harness import ROOT

SHIPPED = [
    "skills/agentbus/SKILL.md",
    "skills/agentbus/references/coordinator.md",
    "skills/agentbus/references/worker.md",
    "skills/agentbus/references/troubleshooting.md",
    "config/agentbus.worker.example.toml",
    "config/agentbus.coordinator.example.toml",
    "config/nats-server.conf",
    "deploy/systemd/agentbus-worker.service",
    "deploy/systemd/user/agentbus-worker.service",
    "deploy/systemd/agent-user.conf",
    "deploy/launchd/com.agentbus.worker.plist",
    "deploy/supervisor/agentbus-worker.conf",
]
_BOUND_S = 120.0


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkout_has_every_shipped_file(name: str) -> None:
    assert asset(name) == ROOT / name


def test_a_shipped_folder_is_found() -> None:
    assert (asset("skills/agentbus") / "SKILL.md").is_file()


def test_a_missing_file_is_an_error_that_says_so() -> None:
    with pytest.raises(AgentBusError, match=r"config/nonsense\.toml is not part of this installation of agentbus"):
        asset("config/nonsense.toml")


# -- the wheel --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """An environment with the built wheel, and an unrelated working folder."""

    home: Path
    elsewhere: Path

    def run(self, command: str, *args: str) -> str:
        """Run a program of the environment from elsewhere; returns its standard output."""
        scripts = self.home / ("Scripts" if os.name == "nt" else "bin")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return _run(str(scripts / command), *args, cwd=self.elsewhere, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    home, elsewhere = folder / "venv", folder / "elsewhere"
    elsewhere.mkdir()
    venv.create(home, with_pip=True, symlinks=os.name != "nt")
    python = str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    if find_spec("hatchling"):
        _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    else:  # pip fetches it
        _run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    [wheel] = folder.glob("agentbus_mcp-*.whl")
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=folder)
    # The dependencies come from the environment of these tests. Python ignores .pth files in a folder that a .pth file
    # names, so the editable installation in there is not found.
    [packages] = home.glob("Lib/site-packages") if os.name == "nt" else home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n", encoding="utf-8")
    return Installed(home, elsewhere)


def _run(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, encoding="utf-8", cwd=cwd, env=env, timeout=_BOUND_S)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.mark.parametrize("package", ["agentbus", "agentbus_mcp", "agentbus_worker"])
def test_the_wheel_contains_each_package(installed: Installed, package: str) -> None:
    where = installed.run("python", "-c", f"import {package}; print({package}.__file__)")
    assert Path(where.strip()).is_relative_to(installed.home)


def test_the_wheel_has_no_top_level_name_of_other_distributions(installed: Installed) -> None:
    look = "from importlib.util import find_spec; print([n for n in ('worker', 'mcp_server', 'tests') if find_spec(n)])"
    assert installed.run("python", "-c", look).strip() == "[]"


def test_the_wheel_contains_every_shipped_file(installed: Installed) -> None:
    look = (
        "import json; from agentbus.provision.assets import asset; "
        f"print(json.dumps([str(asset(n)) for n in {SHIPPED!r}]))"
    )
    found = [Path(path) for path in json.loads(installed.run("python", "-c", look))]
    for name, path in zip(SHIPPED, found, strict=True):
        assert path.is_relative_to(installed.home)
        assert path.read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_contains_no_files_of_other_distributions(installed: Installed) -> None:
    look = "from agentbus.provision.assets import asset; asset('pyproject.toml')"
    with pytest.raises(AssertionError, match=r"pyproject\.toml is not part of this installation"):
        installed.run("python", "-c", look)


@pytest.mark.parametrize("command", ["agentbus", "agentbus-mcp"])
def test_the_commands_of_the_wheel_print_their_help(installed: Installed, command: str) -> None:
    assert f"Usage: {command} " in installed.run(command, "--help")


def test_the_commands_of_the_wheel_print_their_version(installed: Installed) -> None:
    assert __version__ in installed.run("agentbus", "--version")


def test_the_description_of_the_wheel_has_only_links_that_work_on_the_package_index(installed: Installed) -> None:
    look = "from importlib.metadata import metadata; print(metadata('agentbus-mcp').get_payload())"
    links = re.findall(r"\]\(([^)]+)\)", installed.run("python", "-c", look))
    blob = f"https://github.com/agentbus-mcp/agentbus-mcp/blob/v{__version__}"
    assert f"{blob}/CONTRIBUTING.md" in links
    assert (
        f"{blob.replace('github.com', 'raw.githubusercontent.com').replace('/blob', '')}/docs/images/overview.svg"
        in links
    )
    assert [link for link in links if not link.startswith(("https://", "http://", "#"))] == []
