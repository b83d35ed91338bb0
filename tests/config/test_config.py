"""Configuration: where it is looked for, what is refused and in which words, and that secrets stay secret."""

import os
import re
import stat
import subprocess
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentbus.config import loading, nkeys
from agentbus.config.connection_settings import ConnectionSettings, connection_settings, read_secret
from agentbus.config.loading import URL_VARIABLE, coordinator_file, load_coordinator, load_worker, worker_files
from agentbus.config.schema import DEFAULT_URL, CoordinatorConfig, CoordinatorNatsSection, NatsSection
from agentbus.config.toml_text import toml_text
from agentbus.config.urls import SAMPLE_PASSWORD, ServerUrl, parse_urls
from agentbus.errors import ConfigError

pytestmark = pytest.mark.posix("not tried on Windows")

SECRET = "hunter2"
REMOVED = object()


def worker_values(**sections: Any) -> dict[str, dict[str, Any]]:
    """The least that a worker needs; keyword arguments change keys, or take them away."""
    values: dict[str, Any] = {
        "agent": {"id": "code", "chat_cmd": ["agent-cli", "{input}"]},
        "nats": {"url": "nats://bus.example.com:4222"},
    }
    for name, changes in sections.items():
        if changes is REMOVED:
            del values[name]
        else:
            merged = {**values.get(name, {}), **changes}
            values[name] = {key: value for key, value in merged.items() if value is not REMOVED}
    return values


@dataclass(frozen=True)
class Files:
    """Writes configuration files of a test's own, readable by their owner only."""

    folder: Path

    def write(self, text: str | bytes, name: str = "worker.toml", *, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    def worker(self, name: str = "worker.toml", *, mode: int = 0o600, **sections: Any) -> Path:
        return self.write(toml_text(worker_values(**sections)), name, mode=mode)

    def refusal(self, **sections: Any) -> str:
        """What `load_worker` says of a configuration that it must refuse, without the path."""
        path = self.worker(**sections)
        with pytest.raises(ConfigError) as caught:
            load_worker(path)
        return str(caught.value).removeprefix(f"{path}: ")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# -- where it is looked for -------------------------------------------------------------------------------------


def test_a_worker_looks_in_its_folder_then_at_home_then_in_etc(home: Path):
    assert worker_files() == (
        Path("agentbus.toml"),
        home / ".agentbus/config.toml",
        Path("/etc/agentbus/agentbus.toml"),
    )
    assert coordinator_file() is None
    file = home / ".agentbus/coordinator.toml"
    file.parent.mkdir()
    file.touch()
    assert coordinator_file() == file


def test_the_first_worker_configuration_that_exists_is_taken_and_no_other_is_read(
    files: Files, home: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = files.folder / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    system = files.worker("etc/agentbus.toml", agent={"id": "from-etc"})
    monkeypatch.setattr(loading, "worker_files", lambda: (*worker_files()[:2], system))
    assert load_worker()[0].agent.id == "from-etc"
    system.write_text("this is not TOML", encoding="utf-8")

    Files(home).worker(".agentbus/config.toml", agent={"id": "from-home"})
    assert load_worker()[0].agent.id == "from-home"
    (home / ".agentbus/config.toml").write_text("nor is this", encoding="utf-8")

    Files(folder).worker("agentbus.toml", agent={"id": "from-cwd"})
    assert load_worker()[0].agent.id == "from-cwd"


def test_a_named_file_is_the_only_one_that_is_looked_at(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(files.folder)
    files.worker("agentbus.toml", agent={"id": "from-cwd"})
    assert load_worker(files.worker("other.toml", agent={"id": "named"}))[0].agent.id == "named"
    with pytest.raises(ConfigError, match=r"cannot read missing\.toml: No such file"):
        load_worker(Path("missing.toml"))


def test_without_any_file_the_error_names_all_the_places_and_the_option(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(loading, "worker_files", lambda: (*worker_files()[:2], files.folder / "etc.toml"))
    with pytest.raises(ConfigError) as caught:
        load_worker()
    for place in (*(str(path) for path in loading.worker_files()), "--config"):
        assert place in str(caught.value)


def test_no_environment_variable_changes_a_worker(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(URL_VARIABLE, "nats://elsewhere:1")
    assert load_worker(files.worker())[0].nats.url == "nats://bus.example.com:4222"


def test_the_home_folder_of_the_moment_counts_and_not_that_of_the_import(files: Files, home: Path):
    loaded, _ = load_worker(files.worker())
    assert (loaded.worker.state_dir, loaded.log.dir) == (home / ".agentbus/state", home / ".agentbus/logs")


# -- reading a file ---------------------------------------------------------------------------------------------


def test_the_example_of_the_specification_gives_these_values_and_no_warning(files: Files, home: Path):
    path = files.write(
        """
        [agent]
        id = "code"
        chat_cmd = ["agent-cli", "chat", "--oneshot", "{input}"]
        extra_instruction = "Answer in French."
        [worker]
        task_timeout_seconds = 1800
        max_task_bytes = 1048576
        reconnect_time_wait_seconds = 2
        max_reconnect_attempts = -1
        [nats]
        url = "tls://agent-code:a%20password@bus.example.com:7422"
        stream = "AGENT_TASKS"
        task_subject = "agent.code.tasks"
        default_result_subject = "agent.doc.results"
        durable = "agent-code"
        [log]
        dir = "~/.agentbus/logs"
        max_bytes = 104857600
        backup_count = 5
        """
    )
    loaded, warnings = load_worker(path)
    assert warnings == []
    assert loaded.agent.chat_cmd == ("agent-cli", "chat", "--oneshot", "{input}")
    assert loaded.agent.extra_instruction == "Answer in French."
    assert (loaded.durable, loaded.default_inbox, loaded.nats.stream) == ("agent-code", "doc", "AGENT_TASKS")
    assert (loaded.log.dir, loaded.log.max_bytes, loaded.log.backup_count) == (home / ".agentbus/logs", 104857600, 5)
    assert (loaded.worker.task_timeout_seconds, loaded.worker.max_reconnect_attempts) == (1800, -1)


def test_the_least_configuration_has_the_documented_defaults(files: Files):
    loaded, warnings = load_worker(files.worker())
    assert warnings == []
    assert (loaded.durable, loaded.default_inbox) == ("agent-code", "main")
    assert loaded.worker.model_dump(exclude={"state_dir"}) == {
        "task_timeout_seconds": 1800,
        "max_task_bytes": 1048576,
        "inline_output_bytes": 65536,
        "max_output_bytes": 1073741824,
        "max_artifacts_bytes": 268435456,
        "idle_timeout_seconds": 0,
        "stall_timeout_seconds": None,
        "max_retry_after_seconds": 120,
        "max_attempts": 3,
        "retry_on": ("lost",),
        "retry_backoff_seconds": 10,
        "workdir": None,
        "keep_workdir": True,
        "session_days": 14,
        "continue_wait_seconds": 600,
        "question_wait_seconds": None,
        "open_questions": None,
        "concurrency": 1,
        "kill_grace_seconds": 5,
        "drain_timeout_seconds": 30,
        "reconnect_time_wait_seconds": 2,
        "max_reconnect_attempts": -1,
    }


@pytest.mark.parametrize("key", ["question_wait_seconds", "open_questions"])
def test_what_is_said_of_questions_needs_an_agent_that_asks(files: Files, key: str):
    assert files.refusal(worker={key: 2}).endswith(f'{key} in [worker] goes with permissions = "ask" in [agent]')


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[agent\n", "is not valid TOML: .*line 1"),
        (b"[agent]\nid = code\n", "is not valid TOML: .*line 2"),
        (b'[agent]\nid = "a"\nid = "b"\n', "is not valid TOML: .*line 3"),
        (b'[agent]\nid = "caf\xe9"\n', "cannot read .*: it is not UTF-8 text"),
        (b"", r"the section \[agent\] is missing; the section \[nats\] is missing"),
    ],
    ids=["broken section", "bare word", "key twice", "Latin-1", "empty"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(files: Files, data: bytes, reason: str):
    path = files.write(data)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_worker(path)
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_file(files: Files):
    mark = "\ufeff"
    config, warnings = load_worker(
        files.write(f'{mark}[agent]\nid = "code"\nchat_cmd = ["x", "{{input}}"]\n[nats]\nurl = "nats://bus"\n')
    )
    assert (config.agent.id, warnings) == ("code", [])
    secret = files.folder / "secret"
    secret.write_text(f"{mark}hush\n", encoding="utf-8")
    assert read_secret(secret) == "hush"


@contextmanager
def closed_folder(folder: Path) -> Generator[Path]:
    """A folder that may not be searched, not by root either for the length of the block."""
    folder.mkdir(parents=True)
    folder.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


@pytest.mark.posix("permissions of POSIX")
@pytest.mark.parametrize("load", [load_worker, load_coordinator], ids=["worker", "coordinator"])
def test_a_file_in_a_folder_that_may_not_be_searched_is_one_line_with_its_path(
    home: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]
):
    monkeypatch.chdir(home)
    home.chmod(0o755)
    with closed_folder(home / ".agentbus") as folder:
        with pytest.raises(ConfigError, match=r"^cannot look for .*\.toml: Permission denied$") as caught:
            load()
        assert str(folder) in str(caught.value)
        with pytest.raises(ConfigError, match=r"^cannot read .*mine\.toml: Permission denied$"):
            load(path=folder / "mine.toml")


def test_a_folder_in_place_of_a_file_is_an_error_with_its_path(files: Files):
    with pytest.raises(ConfigError, match=f"cannot read {re.escape(str(files.folder))}: Is a directory"):
        load_worker(files.folder)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"agent": REMOVED}, "the section [agent] is missing"),
        ({"nats": REMOVED}, "the section [nats] is missing"),
        ({"agent": {"id": REMOVED}}, "[agent] id is missing"),
        ({"agent": {"chat_cmd": REMOVED}}, "[agent] chat_cmd is missing"),
        ({"nats": {"url": REMOVED}}, "[nats] url is missing"),
        ({"nats": {"ur": "x"}}, "[nats] has no key 'ur'; the nearest known key is 'url'"),
        ({"worker": {"concurency": 5}}, "[worker] has no key 'concurency'; the nearest known key is 'concurrency'"),
        ({"agent": {"ID": "x"}}, "[agent] has no key 'ID'; the nearest known key is 'id'"),
        ({"worker": {"chat_cmd": "x"}}, "[worker] has no key 'chat_cmd'; it belongs to [agent]"),
        ({"agent": {"durable": "x"}}, "[agent] has no key 'durable'; it belongs to [nats]"),
        ({"nats": {"max_bytes": 5}}, "[nats] has no key 'max_bytes'; it belongs to [log]"),
        ({"NATS": {}}, "unknown section or key 'NATS' at the top; the nearest known section is [nats]"),
        ({"wroker": {}}, "unknown section or key 'wroker' at the top; the nearest known section is [worker]"),
        ({"coordinator": {}}, "unknown section or key 'coordinator' at the top; the nearest known section is ["),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:40],
)  # fmt: skip
def test_a_missing_or_unknown_name_is_an_error_that_names_the_fix(files: Files, sections: dict[str, Any], reason: str):
    assert files.refusal(**sections).startswith(reason)


@pytest.mark.parametrize(("key", "section"), [("chat_cmd", "agent"), ("url", "nats"), ("concurrency", "worker")])
def test_a_key_outside_of_any_section_is_sent_to_its_section(files: Files, key: str, section: str):
    path = files.write(f'{key} = "x"\n' + toml_text(worker_values()))
    with pytest.raises(ConfigError, match=rf"'{key}' at the top; it belongs to \[{section}\]"):
        load_worker(path)


def test_all_faults_are_named_at_once(files: Files):
    text = files.refusal(agent={"id": "*", "cmd": "x"}, worker={"concurrency": 0}, nats={"url": REMOVED})
    for part in ("[agent] id: ", "[agent] has no key 'cmd'", "[worker] concurrency: ", "[nats] url is missing"):
        assert part in text


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("agent", "id", 7),
        ("agent", "id", ["code"]),
        ("agent", "id", "*"),
        ("agent", "id", "a.b"),
        ("agent", "id", ""),
        ("agent", "id", "agent-code"),
        ("agent", "chat_cmd", 7),
        ("agent", "chat_cmd", [1, "{input}"]),
        ("agent", "extra_instruction", ["x"]),
        ("agent", "prompt_via", "pipe"),
        ("agent", "description", "x" * 501),
        ("worker", "task_timeout_seconds", "soon"),
        ("worker", "task_timeout_seconds", "5"),
        ("worker", "concurrency", "2"),
        ("worker", "concurrency", True),
        ("worker", "keep_workdir", "yes"),
        ("metrics", "port", "9000"),
        ("nats", "tls_first", "no"),
        ("agent", "id", "main"),
        ("agent", "id", "admin"),
        ("agent", "chat_cmd", "agent {input} | tee log"),
        ("agent", "chat_cmd", "agent {input} && other"),
        ("agent", "chat_cmd", "agent {input} > log 2>&1"),
        ("agent", "chat_cmd", "agent {input} &"),
        ("worker", "task_timeout_seconds", 0),
        ("worker", "task_timeout_seconds", -1),
        ("worker", "max_task_bytes", 0),
        ("worker", "max_task_bytes", 1.5),
        ("worker", "max_output_bytes", 10),
        ("worker", "inline_output_bytes", 10),
        ("worker", "inline_output_bytes", 16777217),
        ("worker", "idle_timeout_seconds", -1),
        ("worker", "stall_timeout_seconds", -1),
        ("worker", "stall_timeout_seconds", True),
        ("worker", "max_retry_after_seconds", "soon"),
        ("worker", "max_attempts", 0),
        ("worker", "retry_backoff_seconds", 3601),
        ("worker", "retry_on", "lost"),
        ("worker", "retry_on", ["Lost"]),
        ("worker", "retry_on", ["lost", "exits"]),
        ("worker", "retry_on", ["exit:0"]),
        ("worker", "retry_on", ["exit:256"]),
        ("worker", "retry_on", ["exit:07"]),
        ("worker", "retry_on", ["exit:-9"]),
        ("worker", "retry_on", ["exit:\N{ARABIC-INDIC DIGIT ONE}"]),
        ("worker", "retry_on", ["timeout:5"]),
        ("worker", "workdir", "~nobody-of-this-name/x"),
        ("worker", "concurrency", 0),
        ("worker", "concurrency", 257),
        ("worker", "concurrency", [1]),
        ("worker", "kill_grace_seconds", -1),
        ("worker", "drain_timeout_seconds", -1),
        ("worker", "reconnect_time_wait_seconds", 0),
        ("worker", "max_reconnect_attempts", -2),
        ("worker", "state_dir", 7),
        ("worker", "state_dir", "~nobody-of-this-name/state"),
        ("nats", "url", 7),
        ("nats", "stream", "AGENT.TASKS"),
        ("nats", "durable", "agent.code"),
        ("nats", "default_result_subject", "main"),
        ("nats", "default_result_subject", "agent.*.results"),
        ("nats", "default_result_subject", "agent.main.tasks"),
        ("nats", "default_result_subject", "agent.agent-main.results"),
        ("nats", "password_file", 7),
        ("log", "dir", 7),
        ("log", "max_bytes", 0),
        ("log", "backup_count", -1),
        ("log", "format", "xml"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(files: Files, section: str, key: str, value: Any):
    assert files.refusal(**{section: {key: value}}).startswith(f"[{section}] {key}: ")


@pytest.mark.parametrize("number", ["inf", "nan", "-inf"])
@pytest.mark.parametrize("key", ["task_timeout_seconds", "kill_grace_seconds", "drain_timeout_seconds"])
def test_no_duration_is_infinite(files: Files, key: str, number: str):
    path = files.write(toml_text(worker_values()) + f"[worker]\n{key} = {number}\n")
    with pytest.raises(ConfigError, match=rf"\[worker\] {key}: "):
        load_worker(path)


@pytest.mark.parametrize("section", ["agent", "worker", "nats", "log"])
def test_a_section_that_is_a_plain_value_is_refused(files: Files, section: str):
    values = {name: keys for name, keys in worker_values().items() if name != section}
    with pytest.raises(ConfigError, match=rf"\[{section}\] should be a"):
        load_worker(files.write(f"{section} = 5\n" + toml_text(values)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task_subject": "agent.doc.tasks"}, "task_subject must be agent.code.tasks"),
        ({"password_file": "secret"}, "[nats] password_file needs user"),
        (
            {"user": "u", "password_file": "a", "token_file": "b"},
            "[nats] password_file and token_file exclude each other",
        ),
        ({"nkey_file": "a", "creds_file": "b"}, "[nats] nkey_file and creds_file exclude each other"),
        ({"key_file": "key"}, "[nats] key_file needs cert_file"),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(files: Files, changes: dict[str, Any], reason: str):
    assert files.refusal(nats=changes).startswith(reason)


def test_the_tasks_subject_may_be_spelled_out(files: Files):
    load_worker(files.worker(nats={"task_subject": "agent.code.tasks", "durable": "own"}))
    assert load_worker(files.worker(nats={"durable": "own"}))[0].durable == "own"


# -- the agent command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["cli", "{input}"], ("cli", "{input}")),
        ("cli chat --oneshot {input}", ("cli", "chat", "--oneshot", "{input}")),
        ("cli '{input}' \"a b\" c\\ d", ("cli", "{input}", "a b", "c d")),
        ("cli --prompt={input}", ("cli", "--prompt={input}")),
        ("cli {input} $HOME; 'a | b' rm -rf *", ("cli", "{input}", "$HOME;", "a | b", "rm", "-rf", "*")),
        (["cli", "{input}", "|", "tee"], ("cli", "{input}", "|", "tee")),
        (["a command", "", "{input}"], ("a command", "", "{input}")),
    ],
)
def test_a_command_is_a_list_or_a_string_that_is_split_and_never_run_by_a_shell(
    files: Files, command: Any, words: tuple[str, ...]
):
    assert load_worker(files.worker(agent={"chat_cmd": command}))[0].agent.chat_cmd == words


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "[agent] chat_cmd is empty"),
        ("   ", "[agent] chat_cmd is empty"),
        ([], "[agent] chat_cmd is empty"),
        (["", "{input}"], "[agent] chat_cmd is empty"),
        ([" ", "{input}"], "[agent] chat_cmd is empty"),
        ("cli chat", "[agent] chat_cmd has no {input} among its arguments"),
        (["cli", "{ input }"], "[agent] chat_cmd has no {input} among its arguments"),
        ("{input}", "[agent] chat_cmd has no {input} among its arguments"),
        (["cli-{input}", "chat"], "[agent] chat_cmd has no {input} among its arguments"),
        ("cli '{input}", "[agent] chat_cmd: cannot be split into words: No closing quotation"),
        ("echo {input} | wc", "[agent] chat_cmd: has '|' in it, which only a shell understands, and none runs it"),
        ("cli {input} > out", "[agent] chat_cmd: has '>' in it, which only a shell understands"),
    ],
)
def test_a_command_that_could_not_take_the_prompt_is_refused(files: Files, command: Any, reason: str):
    assert files.refusal(agent={"chat_cmd": command}).startswith(reason)


@pytest.mark.parametrize("party", ["main", "admin"])
def test_an_agent_that_is_called_like_a_party_of_every_bus_is_refused(files: Files, party: str):
    refusal = files.refusal(agent={"id": party})
    assert refusal == f"[agent] id: no agent can be called {party}: that is a party of every bus"


def test_a_number_in_quotation_marks_is_refused_with_the_fix(files: Files):
    refusal = files.refusal(worker={"concurrency": "2"})
    assert refusal == "[worker] concurrency: must be a number, without quotes"


@pytest.mark.parametrize(
    ("via", "command"),
    [
        ("argv", ["cli", "{input}", "{task_id}"]),
        ("stdin", ["cli", "chat"]),
        ("stdin", ["cli"]),
        ("file", ["cli", "--prompt-file={input_file}"]),
    ],
)
def test_the_prompt_can_be_passed_in_three_ways(files: Files, via: str, command: list[str]):
    agent = load_worker(files.worker(agent={"prompt_via": via, "chat_cmd": command}))[0].agent
    assert (agent.prompt_via, agent.chat_cmd) == (via, tuple(command))


@pytest.mark.parametrize(
    ("via", "command", "reason"),
    [
        ("argv", ["cli", "{input_file}"], "has no {input} among its arguments"),
        ("file", ["cli", "{input}"], 'has {input}, which goes with prompt_via = "argv"'),
        ("file", ["cli", "x"], "has no {input_file} among its arguments"),
        ("file", ["{input_file}", "x"], "has no {input_file} among its arguments"),
        ("argv", ["cli", "{input}", "{input_file}"], 'has {input_file}, which goes with prompt_via = "file"'),
        ("stdin", ["cli", "{input}"], 'has {input}, which goes with prompt_via = "argv"'),
        ("stdin", ["cli", "{input_file}"], 'has {input_file}, which goes with prompt_via = "file"'),
    ],
)
def test_a_command_must_take_the_prompt_in_the_way_that_is_configured(
    files: Files, via: str, command: list[str], reason: str
):
    assert files.refusal(agent={"prompt_via": via, "chat_cmd": command}).startswith(f"[agent] chat_cmd {reason}")


def test_the_reasons_to_try_again_are_named_one_by_one(files: Files):
    reasons = ["lost", "timeout", "idle", "exit:1", "exit:75", "exit:255"]
    assert load_worker(files.worker(worker={"retry_on": reasons}))[0].worker.retry_on == tuple(reasons)
    assert load_worker(files.worker(worker={"retry_on": []}))[0].worker.retry_on == ()


# -- server addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("nats://host", ServerUrl("nats", "host", 4222)),
        ("nats://host:7422/", ServerUrl("nats", "host", 7422)),
        ("tls://host:443", ServerUrl("tls", "host", 443)),
        ("host", ServerUrl("nats", "host", 4222)),
        ("host:7422", ServerUrl("nats", "host", 7422)),
        ("NATS://Host", ServerUrl("nats", "host", 4222)),
        ("nats://127.0.0.1", ServerUrl("nats", "127.0.0.1", 4222)),
        ("nats://[::1]:7422", ServerUrl("nats", "::1", 7422)),
        ("nats://[FE80::01%eth0]", ServerUrl("nats", "fe80::01%eth0", 4222)),
        ("nats://u:p@[::1]:", ServerUrl("nats", "::1", 4222, "u", "p")),
        ("nats://host:", ServerUrl("nats", "host", 4222)),
        ("nats://agentbus_bus_1", ServerUrl("nats", "agentbus_bus_1", 4222)),
        (" nats://host ", ServerUrl("nats", "host", 4222)),
        ("nats://u:p@host", ServerUrl("nats", "host", 4222, "u", "p")),
        ("u:p@host:1", ServerUrl("nats", "host", 1, "u", "p")),
        ("nats://token@host", ServerUrl("nats", "host", 4222, "token", None)),
        ("nats://u:@host", ServerUrl("nats", "host", 4222, "u", "")),
        ("nats://u:a%40b%2Fc%3A%25%2C%23%3F@host", ServerUrl("nats", "host", 4222, "u", "a@b/c:%,#?")),
        ("nats://u%20v:p%C3%A9@host", ServerUrl("nats", "host", 4222, "u v", "pé")),
        ("nats://u:100%@host", ServerUrl("nats", "host", 4222, "u", "100%")),
        ("nats://u:a+b@host", ServerUrl("nats", "host", 4222, "u", "a+b")),
        ("nats://u:a:b@host", ServerUrl("nats", "host", 4222, "u", "a:b")),
    ],
)
def test_a_url_is_read_with_its_credentials_percent_decoded(text: str, url: ServerUrl):
    assert parse_urls(text) == (url,)


def test_several_urls_are_separated_by_commas():
    urls = parse_urls("tls://u:p@one:1, two:2,,nats://three ,")
    assert [str(url) for url in urls] == ["tls://one:1", "nats://two:2", "nats://three:4222"]
    assert [url.tls for url in urls] == [True, False, False]


def test_an_ipv6_address_is_written_with_its_brackets():
    assert str(parse_urls("nats://[2001:db8::1]:7422")[0]) == "nats://[2001:db8::1]:7422"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" , ,", "is empty"),
        ("http://host", "begins with 'http'"),
        ("ws://host:80", "begins with 'ws'"),
        ("nats://", "names no host"),
        ("nats://:4222", "names no host"),
        ("nats://u:p@:4222", "names no host"),
        ("nats://host:port", "port"),
        ("nats://host:65536", "port"),
        ("nats://host:-1", "port"),
        ("nats://host:0", "port"),
        ("nats://[::1", "cannot be read"),
        ("nats://[127.0.0.1]:4222", "cannot be read"),
        ("nats://fd00::5", r"must stand in brackets, as in \[::1\]:4222"),
        ("fd00::5:4222", r"must stand in brackets, as in \[::1\]:4222"),
        ("nats://ho st", "no spaces"),
        ("nats://host:\N{ARABIC-INDIC DIGIT FOUR}222", "port"),
        ("nats://host/path", "goes on after the port"),
        ("nats://host?x=1", "goes on after the port"),
        ("nats://host#x", "goes on after the port"),
        ("good:1,http://bad", "begins with 'http'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        parse_urls(text)


@pytest.mark.parametrize(
    "text",
    [
        f"nats://u:{SECRET}/x@host",
        f"nats://u:x/{SECRET}@host",
        f"nats://u:{SECRET}?x@host",
        f"nats://u:{SECRET}#x@host",
        f"nats://u:x#{SECRET}@host",
        f"nats://u:{SECRET},x@host",
        f"nats://u:x,{SECRET}@host",
        f"nats://u:{SECRET}\N{FULLWIDTH COMMERCIAL AT}x@host",
        f"nats://u:{SECRET}@host:port",
        f"nats://u:{SECRET}:x#y@host",
        f"nats://{SECRET}#y@host:x",
        f"nats://u:x@{SECRET} y",
        f"nats://u:{SECRET}@:4222",
        f"http://u:{SECRET}@host",
        f"nats://u:[{SECRET}@host",
        f"nats://u:{SAMPLE_PASSWORD}{SECRET}@host",
        f"u:{SECRET}://x@host",
    ],
)
def test_a_url_that_is_refused_is_not_quoted_for_it_may_hold_a_password(files: Files, text: str):
    with pytest.raises(ConfigError) as caught:
        parse_urls(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in files.refusal(nats={"url": text})


@pytest.mark.parametrize("text", ["nats://u:{}@host", "nats://{}@host", "one:1,nats://u:{}-2@two:2"])
def test_the_password_of_the_shipped_examples_is_refused(text: str):
    with pytest.raises(ConfigError, match="set a password of your own"):
        parse_urls(text.format(SAMPLE_PASSWORD))


# -- secrets ----------------------------------------------------------------------------------------------------


def settings_of(**nats: Any) -> ConnectionSettings:
    return connection_settings(NatsSection.model_validate({"url": "nats://host", **nats}), agent="code", name="test")


@pytest.mark.parametrize(
    "nats",
    [
        {"url": f"tls://agent-code:{SECRET}@bus.example.com"},
        {"url": f"nats://{SECRET}@bus.example.com"},
        {"user": "agent-code", "password_file": "FILE"},
        {"token_file": "FILE"},
    ],
)
def test_secrets_reach_the_connection_and_show_in_no_text(files: Files, nats: dict[str, str]):
    secret = str(files.write(SECRET, "secret"))
    nats = {key: secret if value == "FILE" else value for key, value in nats.items()}
    loaded, warnings = load_worker(files.worker(nats=nats))
    settings = connection_settings(loaded.nats, agent="code", name="test")
    assert SECRET in (settings.credentials.password, settings.credentials.token)
    shown = [loaded, loaded.nats, settings, settings.credentials, *settings.urls, settings.servers, warnings]
    assert SECRET not in " ".join(f"{value!r} {value!s}" for value in shown)


def test_a_wrong_value_is_not_quoted_for_it_may_be_a_secret_in_the_wrong_place(files: Files):
    text = files.refusal(nats={"url": [SECRET], "stream": 7}, agent={"chat_cmd": [SECRET, "--key", SECRET]})
    assert SECRET not in text


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"  {SECRET}\r\n", f"{SECRET}\n# for the bus\n"])
def test_a_secret_is_the_first_line_of_the_file_that_is_named(files: Files, content: str):
    secret = str(files.write(content, "secret"))
    assert settings_of(user="agent-code", password_file=secret).credentials.password == SECRET
    assert settings_of(token_file=secret).credentials.token == SECRET


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "cannot read the secret in .*: it is not UTF-8 text"),
        (SAMPLE_PASSWORD.encode() + b"-code", "set a password of your own"),
        (None, "cannot read the secret in .*: No such file"),
    ],
)
@pytest.mark.parametrize("key", ["password_file", "token_file"])
def test_a_secret_that_cannot_be_used_is_an_error_with_its_path(
    files: Files, key: str, content: bytes | None, reason: str
):
    path = files.folder / "secret"
    if content is not None:
        files.write(content, "secret")
    with pytest.raises(ConfigError, match=reason):
        settings_of(**{key: str(path), **({"user": "agent-code"} if key == "password_file" else {})})


@pytest.mark.posix("permission bits")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
@pytest.mark.parametrize("holder", ["url with a password", "url with a token", "password file", "token file"])
def test_a_secret_that_others_can_read_earns_a_warning_with_the_command_that_helps(
    files: Files, holder: str, mode: int
):
    secret = files.write(SECRET, "the secret", mode=mode)
    nats: dict[str, Any] = {
        "url with a password": {"url": f"nats://u:{SECRET}@host"},
        "url with a token": {"url": f"nats://{SECRET}@host"},
        "password file": {"user": "agent-code", "password_file": str(secret)},
        "token file": {"token_file": str(secret)},
    }[holder]
    path = files.worker(nats=nats, mode=mode)
    exposed = path if holder.startswith("url") else secret
    _, [warning] = load_worker(path)
    assert str(exposed) in warning
    assert warning.endswith(f"chmod 600 '{exposed}'" if exposed == secret else f"chmod 600 {exposed}")
    command = warning.partition("run: ")[2]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    assert stat.S_IMODE(exposed.stat().st_mode) == 0o600
    assert load_worker(path)[1] == []


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_that_only_its_owner_reads_earns_no_warning(files: Files, mode: int):
    assert load_worker(files.worker(nats={"url": f"nats://u:{SECRET}@host"}, mode=mode))[1] == []


def test_a_file_without_a_secret_may_be_read_by_everybody(files: Files):
    assert load_worker(files.worker(mode=0o644))[1] == []


# -- what the connection is made with ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nats", "user", "password", "token"),
    [
        ({"url": "nats://host"}, None, None, None),
        ({"url": "nats://u:p%40@host"}, "u", "p@", None),
        ({"url": "nats://t%40@host"}, None, None, "t@"),
        ({"url": "nats://u:old@host", "user": "agent-code", "password_file": "FILE"}, "agent-code", SECRET, None),
        ({"url": "nats://u:old@host", "token_file": "FILE"}, None, None, SECRET),
        ({"url": "nats://one,nats://u:p@two"}, "u", "p", None),
        ({"url": "nats://u:p@one,nats://two"}, "u", "p", None),
    ],
)
def test_credentials_come_from_the_file_that_is_named_else_from_the_first_url_that_has_them(
    files: Files, nats: dict[str, str], user: str | None, password: str | None, token: str | None
):
    secret = str(files.write(SECRET, "secret"))
    credentials = settings_of(**{key: secret if value == "FILE" else value for key, value in nats.items()}).credentials
    assert (credentials.user, credentials.password, credentials.token) == (user, password, token)


@pytest.mark.parametrize(
    ("nats", "prefix"),
    [
        ({"url": "nats://agent-doc:p@host"}, "_INBOX_doc"),
        ({"url": "nats://doc:p@host"}, "_INBOX_doc"),
        ({"url": "nats://host"}, "_INBOX_code"),
        ({"url": "nats://token@host"}, "_INBOX_code"),
        ({"url": "nats://not%20an%20id:p@host"}, "_INBOX_code"),
        ({"url": "nats://agent-doc:p@host", "inbox_prefix": "_MY.inbox"}, "_MY.inbox"),
    ],
)
def test_the_inbox_prefix_follows_the_user_else_the_agent(nats: dict[str, str], prefix: str):
    assert settings_of(**nats).inbox_prefix == prefix


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_a_tls_file_that_does_not_exist_is_an_error_with_its_path(files: Files, key: str):
    with pytest.raises(ConfigError, match=r"missing\.pem does not exist"):
        settings_of(**{key: str(files.folder / "missing.pem")})


def test_files_are_found_under_the_home_folder(home: Path):
    Files(home).write(SECRET, "secret")
    pem = Files(home).write("certificate", "ca.pem")
    settings = settings_of(token_file="~/secret", ca_file="~/ca.pem")
    assert (settings.credentials.token, settings.ca_file) == (SECRET, pem)


CREDS = """-----BEGIN NATS USER JWT-----
eyJ0eXAi.eyJqdGki.c2lnbmF0dXJl
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


def test_an_nkey_is_taken_from_the_file_that_is_named(files: Files) -> None:
    seed = nkeys.new_seed()
    credentials = settings_of(nkey_file=str(files.write(f"{seed}\n", "user.nk"))).credentials
    assert (credentials.nkey_seed, credentials.jwt) == (seed, None)
    assert seed not in repr(credentials)


def test_jwt_and_seed_are_taken_from_a_creds_file(files: Files) -> None:
    seed = nkeys.new_seed()
    credentials = settings_of(creds_file=str(files.write(CREDS.format(seed=seed), "user.creds"))).credentials
    assert (credentials.nkey_seed, credentials.jwt) == (seed, "eyJ0eXAi.eyJqdGki.c2lnbmF0dXJl")
    assert "eyJ" not in repr(credentials)


@pytest.mark.parametrize(
    ("key", "content", "reason"),
    [
        ("nkey_file", "", "is empty"),
        ("nkey_file", "nonsense", "not the seed of a user's nkey, which begins with SU"),
        ("nkey_file", "SUAAé", "not the seed of a user's nkey"),
        ("nkey_file", None, "cannot read the secret in .*: No such file"),
        ("creds_file", "", "no block BEGIN NATS USER JWT"),
        ("creds_file", CREDS.format(seed="nonsense"), "not the seed of a user's nkey"),
        ("creds_file", CREDS.partition("\n\n")[0], "no block BEGIN USER NKEY SEED"),
        ("creds_file", None, "cannot read the secret in .*: No such file"),
    ],
)
def test_a_key_that_cannot_be_used_is_an_error_with_its_path(
    files: Files, key: str, content: str | None, reason: str
) -> None:
    path = files.folder / "key"
    if content is not None:
        files.write(content, "key")
    with pytest.raises(ConfigError, match=reason) as caught:
        settings_of(**{key: str(path)})
    assert str(path) in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_a_damaged_seed_is_refused() -> None:
    seed = nkeys.new_seed()
    nkeys.check_seed(seed)
    for damaged in (seed[:-1], seed.lower(), "SA" + seed[2:], seed * 2):
        with pytest.raises(ConfigError, match="not the seed of a user's nkey"):
            nkeys.check_seed(damaged)


# -- the coordinator --------------------------------------------------------------------------------------------


def coordinator_toml(host: str, agent: str = "main") -> str:
    return toml_text({"nats": {"url": f"nats://{host}"}, "coordinator": {"id": agent}})


def test_the_connection_of_a_coordinator_is_taken_in_the_documented_order(files: Files, home: Path):
    named = files.write(coordinator_toml("config"), "c.toml")
    at_home = Files(home).write(coordinator_toml("home"), ".agentbus/coordinator.toml")

    def url(**arguments: Any) -> str:
        options: dict[str, Any] = {"environ": {URL_VARIABLE: "nats://environment"}, **arguments}
        return load_coordinator(**options)[0].nats.url

    assert url(nats_url="nats://option", path=named) == "nats://option"
    assert url(nats_url="nats://option") == "nats://option"
    assert url(path=named) == "nats://config"
    assert url() == "nats://environment"
    assert url(environ={}) == "nats://home"
    assert url(environ={URL_VARIABLE: ""}) == "nats://home"
    at_home.unlink()
    assert url(environ={}) == DEFAULT_URL == "nats://127.0.0.1:7422"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(URL_VARIABLE, "nats://environment")
    assert load_coordinator()[0].nats.url == "nats://environment"


def test_a_url_replaces_the_connection_and_leaves_the_coordinator_id(files: Files, home: Path):
    Files(home).write(coordinator_toml("home", "boss"), ".agentbus/coordinator.toml")
    assert load_coordinator(nats_url="nats://option", environ={})[0].coordinator.id == "boss"
    named = files.write(coordinator_toml("config", "chief"), "c.toml")
    loaded, _ = load_coordinator(nats_url="nats://option", path=named, environ={})
    assert (loaded.coordinator.id, loaded.nats.url) == ("chief", "nats://option")


def test_credentials_of_a_file_do_not_go_to_the_server_of_the_option(home: Path):
    Files(home).write(toml_text({"nats": {"url": "nats://home", "token_file": "secret"}}), ".agentbus/coordinator.toml")
    loaded, _ = load_coordinator(nats_url="nats://option", environ={})
    assert loaded.nats == CoordinatorNatsSection(url="nats://option")


@pytest.mark.parametrize(
    ("lines", "role", "agents"),
    [
        ("", "operator", None),
        ('id = "main"\nrole = "operator"', "operator", None),
        ('id = "alice"', "member", None),
        ('id = "alice"\nagents = ["code", "doc"]', "member", ("code", "doc")),
        ('id = "alice"\nagents = []', "member", ()),
        ('id = "alice"\nrole = "operator"', "operator", None),
        ('id = "bob"\nrole = "viewer"', "viewer", None),
    ],
)
def test_the_role_of_a_coordinator_follows_its_id_unless_it_is_set(
    files: Files, lines: str, role: str, agents: tuple[str, ...] | None
):
    loaded, _ = load_coordinator(path=files.write(f"[coordinator]\n{lines}\n"), environ={})
    assert (loaded.coordinator.effective_role, loaded.coordinator.agents) == (role, agents)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('role = "member"', "main is an operator on every bus; give a member an id of its own"),
        ('id = "main"\nrole = "viewer"', "give a viewer an id of its own"),
        ('agents = ["code"]', "agents is for members"),
        ('id = "bob"\nrole = "viewer"\nagents = ["code"]', "agents is for members"),
        ('id = "bob"\nrole = "king"', r"\[coordinator\] role: "),
        ('id = "bob"\nagents = ["agent-code"]', "must be written without 'agent-'"),
    ],
)
def test_a_role_that_cannot_be_is_refused_with_the_reason(files: Files, lines: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        load_coordinator(path=files.write(f"[coordinator]\n{lines}\n"), environ={})


def test_a_coordinator_file_may_name_only_its_id(files: Files):
    loaded, _ = load_coordinator(path=files.write('[coordinator]\nid = "boss"\n'), environ={})
    assert (loaded.nats.url, loaded.coordinator.id) == (DEFAULT_URL, "boss")


@pytest.mark.parametrize(("url", "what"), [(f"nats://u:{SECRET}@host", "password"), (f"nats://{SECRET}@host", "token")])
def test_a_secret_in_the_option_works_and_earns_a_warning_that_names_the_safer_ways(home: Path, url: str, what: str):
    loaded, [warning] = load_coordinator(nats_url=url, environ={})
    assert loaded.nats.url == url
    assert f"a {what} in --nats-url" in warning
    assert str(home / ".agentbus/coordinator.toml") in warning
    assert URL_VARIABLE in warning
    assert SECRET not in warning


@pytest.mark.parametrize("url", ["nats://host", "nats://one,tls://two:1"])
def test_a_url_without_a_secret_earns_no_warning(url: str):
    assert load_coordinator(nats_url=url, environ={})[1] == []


def test_a_secret_in_the_environment_earns_no_warning():
    assert load_coordinator(environ={URL_VARIABLE: f"nats://u:{SECRET}@host"})[1] == []


def test_a_coordinator_file_with_a_secret_that_others_can_read_earns_a_warning(home: Path):
    path = Files(home).write(coordinator_toml(f"u:{SECRET}@host"), ".agentbus/coordinator.toml", mode=0o644)
    assert load_coordinator(environ={})[1] == [
        f"{path} holds a secret and can be read by other users; run: chmod 600 {path}"
    ]
    # The file has no say in the connection here.
    assert load_coordinator(nats_url="nats://host", environ={})[1] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[coordinator]\nid = 'agent-main'\n", r"\[coordinator\] id: .* prefix"),
        ("[nats]\nurl = 'http://host'\n", "begins with 'http'"),
        ("[nats]\nstream = 'X'\nurl = 'nats://host'\n", r"\[nats\] has no key 'stream'"),
        ("[nats]\nuser = 'u'\n", r"\[nats\] url is missing"),
        ("[agent]\nid = 'code'\n", r"unknown section or key 'agent' at the top: this is the configuration of a worker"),
        ("[nats]\nurl = 'nats://host'\n[bundle]\n", "'bundle' at the top: this is a bundle"),
        ("[bus]\nurl = 'nats://host'\n[party.code]\n", "'bus' at the top: this is the list of a bus's parties"),
        ("[coordinator]\n[agent]\n", "unknown section or key 'agent' at the top; the nearest known section is"),
    ],
)
def test_a_coordinator_file_is_held_to_the_same_rules(files: Files, text: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        load_coordinator(path=files.write(text), environ={})


def test_a_worker_says_that_a_file_is_that_of_a_coordinator(files: Files):
    with pytest.raises(ConfigError, match="this is the configuration of a coordinator; name the configuration of a w"):
        load_worker(files.write("[nats]\nurl = 'nats://host'\n[coordinator]\nid = 'boss'\n"))


@pytest.mark.parametrize(
    ("url", "warned"), [("tls://bus.example.com:7422", True), ("nats://10.0.0.5", True), (DEFAULT_URL, False)]
)
def test_on_the_machine_of_a_worker_alone_the_local_bus_is_not_taken_without_a_word(
    files: Files, home: Path, monkeypatch: pytest.MonkeyPatch, url: str, warned: bool
):
    monkeypatch.chdir(files.folder)
    file = Files(home).write(f"[agent]\nid = 'code'\n[nats]\nurl = '{url}'\n", ".agentbus/config.toml")
    loaded, warnings = load_coordinator(environ={})
    assert loaded.nats.url == DEFAULT_URL
    assert [f"the configuration of a worker only ({file})" in text for text in warnings] == [True] * warned
    assert load_coordinator(nats_url="nats://host", environ={})[1] == []
    assert load_coordinator(environ={URL_VARIABLE: "nats://host"})[1] == []
    Files(home).write("[coordinator]\nid = 'boss'\n", ".agentbus/coordinator.toml")
    assert load_coordinator(environ={})[1] == []


@pytest.mark.parametrize("text", ["", "not TOML", "[nats]\nurl = 7\n", "nats = 1\n", "[nats]\nurl = 'http://x'\n"])
def test_a_file_of_a_worker_that_cannot_be_read_stops_no_coordinator(
    files: Files, monkeypatch: pytest.MonkeyPatch, text: str
):
    monkeypatch.chdir(files.folder)
    files.write(text, "agentbus.toml")
    assert load_coordinator(environ={}) == (CoordinatorConfig(), [])


@pytest.mark.parametrize("arguments", [{"nats_url": "http://host"}, {"environ": {URL_VARIABLE: "http://host"}}])
def test_a_url_that_cannot_be_used_is_refused_wherever_it_comes_from(arguments: dict[str, Any]):
    with pytest.raises(ConfigError, match="begins with 'http'"):
        load_coordinator(**arguments)


# -- agents of the Agent Client Protocol --------------------------------------------------------------------------


def acp_file(files: Files, keys: str, servers: str = "") -> Path:
    """The configuration of a worker with an agent of the protocol."""
    agent = f'[agent]\nid = "code"\nchat_cmd = ["my-agent", "acp"]\n{keys}\n{servers}\n'
    return files.write(f'{agent}[nats]\nurl = "nats://127.0.0.1:7422"\n')


def test_an_agent_of_the_protocol_has_a_mode_permissions_and_mcp_servers(files: Files):
    servers = (
        '[agent.mcp_servers.docs]\ncommand = "docs-mcp"\nargs = ["--all"]\nenv = {KEY = "s3cret"}\n'
        '[agent.mcp_servers.web]\nurl = "https://example.org/mcp"\nheaders = {Authorization = "Bearer s3cret"}\n'
    )
    path = acp_file(files, 'output = "acp"\nacp_mode = "plan"\npermissions = "allow"', servers)
    path.chmod(0o600)
    config, warnings = load_worker(path)
    agent = config.agent
    assert (agent.acp_mode, agent.permissions, warnings) == ("plan", "allow", [])
    assert agent.mcp_servers is not None
    assert [server.for_session(name) for name, server in agent.mcp_servers.items()] == [
        {"name": "docs", "command": "docs-mcp", "args": ["--all"], "env": [{"name": "KEY", "value": "s3cret"}]},
        {"type": "http", "name": "web", "url": "https://example.org/mcp",
         "headers": [{"name": "Authorization", "value": "Bearer s3cret"}]},
    ]  # fmt: skip
    assert "s3cret" not in repr(config)


@pytest.mark.skipif(os.name != "posix", reason="has no modes")
def test_a_file_with_secrets_for_mcp_servers_that_others_can_read_earns_a_warning(files: Files):
    path = acp_file(files, 'output = "acp"', '[agent.mcp_servers.docs]\ncommand = "docs"\nenv = {KEY = "s3cret"}')
    path.chmod(0o644)
    _, warnings = load_worker(path)
    assert [f"chmod 600 {path}" in warning for warning in warnings] == [True]


@pytest.mark.parametrize(
    ("keys", "servers", "reason"),
    [
        ('permissions = "allow"\nprompt_via = "stdin"', "", 'permissions goes with output = "acp"'),
        ('output = "claude"\nprompt_via = "stdin"\nacp_mode = "plan"', "", 'acp_mode goes with output = "acp"'),
        ('output = "acp"\nprompt_via = "file"', "", 'prompt_via must be "stdin", or left out'),
        ('output = "acp"', '[agent.mcp_servers.x]\nargs = ["a"]', "an MCP server has a command or a url"),
        ('output = "acp"', '[agent.mcp_servers.x]\nurl = "u"\nenv = {A = "b"}', "args and env go with command"),
        ('output = "acp"\npermissions = "never"', "", "permissions"),
    ],
)
def test_what_does_not_go_with_the_protocol_is_refused(files: Files, keys: str, servers: str, reason: str):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load_worker(acp_file(files, keys, servers))


def test_a_command_of_the_protocol_takes_no_prompt(files: Files):
    text = '[agent]\nid = "code"\nchat_cmd = ["a", "{input}"]\noutput = "acp"\n[nats]\nurl = "nats://127.0.0.1:1"\n'
    with pytest.raises(ConfigError, match="the protocol has the prompt"):
        load_worker(files.write(text))
