"""The telemetry that a person has set up for Gemini CLI is found wherever the CLI takes it from."""

import os
from pathlib import Path

import pytest

from agentbus.observability.agent_telemetry import own_telemetry

COMMAND = ("gemini", "-o", "stream-json")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """An environment with a home, and with settings of the system that are not those of this machine."""
    for name in ("home", "system", "project/task"):
        (tmp_path / name).mkdir(parents=True)
    return {"HOME": str(tmp_path / "home"), "GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(tmp_path / "system/settings.json")}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/.gemini/settings.json", '{"telemetry": {"enabled": true}}'),
        ("home/.gemini/settings.json", '{"telemetry": {"enabled": false}}'),
        ("home/.gemini/settings.json", '{\n  // mine\n  "telemetry": {}\n}'),
        ("project/task/.gemini/settings.json", '{"telemetry": {"target": "gcp"}}'),
        ("system/settings.json", '{"telemetry": {}}'),
        ("system/system-defaults.json", '{"telemetry": {}}'),
        ("home/.gemini/.env", "A=1\nexport GEMINI_TELEMETRY_ENABLED=1\n"),
        ("home/.env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317\n"),
        ("project/.env", "GEMINI_TELEMETRY_OUTFILE=x"),
        ("project/task/.gemini/.env", "GEMINI_TELEMETRY_TARGET=gcp"),
        ("home/.gemini/settings.json", " " * 1_048_577),
    ],
)
def test_a_file_that_sets_telemetry_is_found_and_named(
    tmp_path: Path, places: dict[str, str], file: str, text: str
) -> None:
    folder = tmp_path / "project/task"
    assert own_telemetry(COMMAND, places, folder) == ""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert own_telemetry(COMMAND, places, folder) == str(tmp_path / file)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("home/.gemini/settings.json", '{"mcpServers": {"telemetry": {}}, "ui": {"theme": "telemetry"}}'),
        ("home/.gemini/settings.json", ""),
        ("home/.gemini/settings.json", "{" * 10_000),
        ("project/.env", "KEY=OTEL_ and GEMINI_TELEMETRY_ENABLED\n# GEMINI_TELEMETRY_ENABLED=1\n"),
        ("home/.gemini", "a file"),
    ],
)
def test_a_file_that_only_mentions_it_does_not_count(
    tmp_path: Path, places: dict[str, str], file: str, text: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert own_telemetry(COMMAND, places, tmp_path / "project/task") == ""


def test_a_variable_an_option_or_another_home_counts(tmp_path: Path, places: dict[str, str]) -> None:
    for name in ("GEMINI_TELEMETRY_ENABLED", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        assert own_telemetry(COMMAND, {**places, name: ""}, tmp_path) == f"the variable {name}"
    assert "--telemetry" in own_telemetry(("sh", "-c", "gemini --telemetry-target gcp"), places, tmp_path)
    other = tmp_path / "other/.gemini/settings.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"telemetry": {}}', encoding="utf-8")
    assert own_telemetry(COMMAND, {**places, "GEMINI_CLI_HOME": str(tmp_path / "other")}, tmp_path) == str(other)


@pytest.mark.posix("makes a pipe")
def test_settings_that_cannot_be_read_count_and_are_not_waited_for(tmp_path: Path, places: dict[str, str]) -> None:
    settings = tmp_path / "home/.gemini/settings.json"
    settings.parent.mkdir()
    os.mkfifo(settings)
    assert own_telemetry(COMMAND, places, tmp_path) == str(settings)
    settings.unlink()
    settings.mkdir()
    assert own_telemetry(COMMAND, places, tmp_path) == str(settings)
