"""A user without a home folder: a container that runs under a user id of its own has neither HOME nor an entry."""

from pathlib import Path

import pytest

from agentbus.config.home import in_home, in_home_if_any
from agentbus.config.loading import coordinator_file, load_coordinator, load_worker, worker_files
from agentbus.errors import ConfigError
from agentbus.provision.agent_skill import present_hosts
from support.in_process import run_here

pytestmark = pytest.mark.posix("a home is always known on Windows")


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_path_in_the_home_of_an_unknown_user_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match="'~no-such-user/x' is not known; set HOME"):
        in_home("~no-such-user/x")
    assert in_home_if_any("~no-such-user/x") is None
    assert in_home(Path("a/~b")) == Path("a/~b")


@pytest.mark.usefixtures("no_home")
def test_without_a_home_files_are_looked_for_elsewhere_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert worker_files() == (Path("agentbus.toml"), Path("/etc/agentbus/agentbus.toml"))
    assert coordinator_file() is None
    config, warnings = load_coordinator(environ={"AGENTBUS_NATS_URL": "nats://bus.example:4222"})
    assert (config.nats.url, warnings) == ("nats://bus.example:4222", [])
    _, warnings = load_coordinator(nats_url="nats://code:secret@bus.example:4222", environ={})
    assert "~/.agentbus/coordinator.toml" in warnings[0]
    assert present_hosts() == ["agents"]
    with pytest.raises(ConfigError, match="no worker configuration found"):
        load_worker()


@pytest.mark.usefixtures("no_home")
def test_without_a_home_a_worker_needs_its_paths_named(tmp_path: Path):
    file = tmp_path / "code.toml"
    agent = '[agent]\nid = "code"\nchat_cmd = ["cat", "{input}"]\n[nats]\nurl = "nats://127.0.0.1:1"\n'
    file.write_text(agent, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\[worker\] state_dir: the home folder in '~/.agentbus/state' is not known"):
        load_worker(file)
    file.write_text(f'{agent}[worker]\nstate_dir = "/s"\n[log]\ndir = "/l"\n', encoding="utf-8")
    assert load_worker(file)[0].worker.state_dir == Path("/s")


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    "args",
    [
        ["up"],
        ["init"],
        ["skill", "install"],
        ["mcp", "config", "--host", "cursor"],
        ["mcp", "token", "list"],
        ["coordinator", "list"],
        ["agent", "rotate", "code"],
        ["mcp", "config", "--host", "codex", "--config", "~no-such-user/c.toml"],
    ],
)
def test_a_command_that_needs_the_home_says_so_in_one_line(args: list[str]):
    ran = run_here(*args)
    assert ran.code == 1
    assert "the home folder in '~" in str(ran.error)
    assert "set HOME, or name another path" in str(ran.error)


@pytest.mark.usefixtures("no_home")
def test_without_a_home_a_service_of_the_user_is_refused_in_one_line(tmp_path: Path):
    file = tmp_path / "code.toml"
    file.write_text(
        '[agent]\nid = "code"\nchat_cmd = ["cat", "{input}"]\n[nats]\nurl = "nats://127.0.0.1:1"\n'
        '[worker]\nstate_dir = "/s"\n[log]\ndir = "/l"\n',
        encoding="utf-8",
    )
    ran = run_here("service", "install", "--config", str(file), "--manager", "systemd-user", "--print")
    assert "this user has no name in the user database; set USER" in str(ran.error)
