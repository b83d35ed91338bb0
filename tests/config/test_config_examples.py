"""The shipped example configurations: complete, true to the defaults, and refused until the password is one's own."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator, load_worker
from agentbus.config.schema import CoordinatorConfig
from agentbus.config.urls import SAMPLE_PASSWORD
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import ConfigError
from support.harness import ROOT

pytestmark = pytest.mark.posix("not tried on Windows")

_COMMENTED_KEY = re.compile(r"^# ([a-z_]+ = .+)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A shipped file, the model of what it configures, and the loader that reads it."""

    path: Path
    model: type[BaseModel]
    load: Callable[[Path], tuple[Any, list[str]]]

    def __str__(self) -> str:
        return self.path.name

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


WORKER = Example(ROOT / "config" / "agentbus.worker.example.toml", WorkerConfig, load_worker)
COORDINATOR = Example(
    ROOT / "config" / "agentbus.coordinator.example.toml", CoordinatorConfig, lambda path: load_coordinator(path=path)
)
both = pytest.mark.parametrize("example", [WORKER, COORDINATOR], ids=str)


def sections(text: str) -> dict[str, set[str]]:
    return {section: set(keys) for section, keys in tomllib.loads(text).items()}


def own_password(example: Example, folder: Path) -> Path:
    path = folder / "agentbus.toml"
    path.write_text(re.sub(SAMPLE_PASSWORD + r"-\w+", "s3cret", example.text), encoding="utf-8")
    path.chmod(0o600)
    return path


@both
def test_an_example_shows_every_known_key_and_no_other(example: Example) -> None:
    known = {
        section: set(cast("type[BaseModel]", field.annotation).model_fields)
        for section, field in example.model.model_fields.items()
    }
    assert sections(_COMMENTED_KEY.sub(r"\1", example.text)) == known


@both
def test_keys_that_are_commented_out_have_no_value_of_their_own_by_default(example: Example) -> None:
    for section, keys in sections(_COMMENTED_KEY.sub(r"\1", example.text)).items():
        fields = cast("type[BaseModel]", example.model.model_fields[section].annotation).model_fields
        for key in keys - sections(example.text)[section]:
            assert fields[key].default is None, f"[{section}] {key}"


@both
def test_an_example_is_refused_for_its_sample_password(example: Example, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the password is the one from the shipped example; set a password of your"):
        example.load(example.path)

    hidden = tmp_path / "password"
    hidden.write_text(f"{SAMPLE_PASSWORD}-code\n", encoding="utf-8")
    moved = re.sub(
        r"^url = .*$",
        f'url = "tls://bus:7422"\nuser = "agent-code"\npassword_file = "{hidden}"',
        example.text,
        flags=re.MULTILINE,
    )
    path = tmp_path / "moved.toml"
    path.write_text(moved, encoding="utf-8")
    config, _ = example.load(path)
    with pytest.raises(ConfigError, match="the password is the one from the shipped example"):
        connection_settings(config.nats, agent="code", name="test")


@both
def test_with_a_password_of_ones_own_an_example_loads_without_a_warning(example: Example, tmp_path: Path) -> None:
    config, warnings = example.load(own_password(example, tmp_path))

    assert warnings == []
    [server] = connection_settings(config.nats, agent="code", name="test").urls
    assert (str(server), server.tls) == ("tls://bus.example.com:7422", True)


def test_what_the_worker_example_sets_are_the_defaults(tmp_path: Path) -> None:
    config, _ = load_worker(own_password(WORKER, tmp_path))

    required = {"agent": {"id": "code", "chat_cmd": config.agent.chat_cmd}, "nats": {"url": config.nats.url}}
    bare = WorkerConfig.model_validate({**required, "worker": {}, "log": {}})
    assert config.model_dump() == bare.model_dump()
    assert "{input}" in config.agent.chat_cmd


def test_what_the_coordinator_example_sets_are_the_defaults(tmp_path: Path) -> None:
    config, _ = load_coordinator(path=own_password(COORDINATOR, tmp_path))

    assert config.model_dump() == CoordinatorConfig.model_validate({"nats": {"url": config.nats.url}}).model_dump()


@pytest.mark.parametrize(
    ("example", "user", "inbox"), [(WORKER, "agent-code", "_INBOX_code"), (COORDINATOR, "agent-main", "_INBOX_main")]
)
def test_an_example_names_a_user_of_the_shipped_server_configuration(
    example: Example, user: str, inbox: str, tmp_path: Path
) -> None:
    config, _ = example.load(own_password(example, tmp_path))

    settings = connection_settings(config.nats, agent="other", name="test")
    server = (ROOT / "config" / "nats-server.conf").read_text(encoding="utf-8")
    assert settings.credentials.user == user
    assert f'user: "{user}"' in server
    assert settings.inbox_prefix == inbox
    assert f'"{inbox}.>"' in server
