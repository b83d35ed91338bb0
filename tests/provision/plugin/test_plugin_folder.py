"""One folder is a plugin of every host: each form names the same server, skill and version; files of others stay."""

import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from agentbus.errors import PluginError
from agentbus.provision.assets import asset
from agentbus.provision.plugin.plugin_files import Commands, of_this_installation, portable
from agentbus.provision.plugin.plugin_folder import build
from agentbus.version import __version__
from support.harness import run_cli


def read(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(folder: Path) -> dict[str, Any]:
    return {name: json.loads(data) for name, data in read(folder).items() if name.endswith(".json")}


@pytest.mark.parametrize(
    "commands", [portable(), of_this_installation(["--config", "/srv/my team.toml"])], ids=["uvx", "here"]
)
def test_every_form_names_the_same_server_skill_and_version(tmp_path: Path, commands: Commands) -> None:
    assert build(tmp_path / "plugin", commands) == "made"
    found = objects(tmp_path / "plugin")
    assert {one["version"] for one in found.values() if isinstance(one, dict) and "version" in one} == {__version__}
    server = found["mcp.json"]["mcpServers"]["agentbus"]
    assert [server["command"], *server["args"]] == [*commands.server, *commands.bus]
    assert os.sep not in server["command"], "Agent Plugins 1.0 takes names alone"
    assert found["mcp.json"] == found[".mcp.json"]
    assert found["gemini-extension.json"]["mcpServers"]["agentbus"].items() <= server.items()
    for form in ("plugin", "mcp"):
        assert found[f"{form}.json"]["$schema"] == f"https://agent-plugins.org/schemas/1.0.0/{form}.schema.json"
    [monitor] = found["monitors/monitors.json"]
    assert monitor["when"] == "on-skill-invoke:agentbus:agentbus"
    assert monitor["command"].endswith(
        "watch --lines --session" + (" --config '/srv/my team.toml'" if commands.bus else "")
    )
    skill = asset("skills/agentbus")
    copied = {path.relative_to(skill).as_posix() for path in skill.rglob("*.md")}
    assert {f"skills/agentbus/{name}" for name in copied} <= read(tmp_path / "plugin").keys()
    for market in (".claude-plugin/marketplace.json", ".agents/plugins/marketplace.json"):
        assert [one["name"] for one in found[market]["plugins"]] == ["agentbus"]


def test_the_same_version_makes_the_same_bytes_and_the_bundle_is_one_of_uv(tmp_path: Path) -> None:
    build(tmp_path / "a", portable())
    build(tmp_path / "b", portable())
    assert read(tmp_path / "a") == read(tmp_path / "b")
    with zipfile.ZipFile(io.BytesIO(read(tmp_path / "a")["agentbus.mcpb"])) as bundle:
        manifest = json.loads(bundle.read("manifest.json"))
        assert manifest["server"]["type"] == "uv"
        assert manifest["server"]["entry_point"] in bundle.namelist()
        assert f"agentbus-mcp=={__version__}" in bundle.read("pyproject.toml").decode()


def test_building_again_updates_what_a_build_has_written_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "plugin"
    build(folder, portable())
    assert build(folder, portable()) == "up to date"
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    (folder / "skills" / "agentbus" / "SKILL.md").write_text("old", encoding="utf-8")
    assert build(folder, of_this_installation()) == "updated"
    assert (folder / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert not (folder / "agentbus.mcpb").exists(), "it serves on other machines only"
    assert "name: agentbus" in (folder / "skills" / "agentbus" / "SKILL.md").read_text(encoding="utf-8")


def test_a_folder_or_a_file_of_others_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mcp.json").write_text("{}", encoding="utf-8")
    with pytest.raises(PluginError, match="holds something else"):
        build(other, portable())
    assert read(other) == {"mcp.json": b"{}"}
    build(tmp_path / "plugin", of_this_installation())
    (tmp_path / "plugin" / "agentbus.mcpb").write_text("mine", encoding="utf-8")
    with pytest.raises(PluginError, match=r"agentbus\.mcpb is not of this plugin"):
        build(tmp_path / "plugin", portable())
    (tmp_path / "plugin" / ".agentbus-plugin.json").write_text('["../../x", "plugin.json"', encoding="utf-8")
    with pytest.raises(PluginError, match="is not what a build has written"):
        build(tmp_path / "plugin", portable())


@pytest.mark.posix("symbolic links")
def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "plugin", tmp_path / "outside"
    build(folder, portable())
    outside.mkdir()
    (folder / "monitors" / "monitors.json").unlink()
    (folder / "monitors").rmdir()
    (folder / "monitors").symlink_to(outside)
    with pytest.raises(PluginError, match="is a link"):
        build(folder, portable())
    assert not list(outside.iterdir())
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(PluginError, match="is a file or a link"):
        build(tmp_path / "link", portable())


async def test_the_command_prints_the_folder_and_its_server_starts(tmp_path: Path) -> None:
    ran = await run_cli("plugin", "build", str(tmp_path / "plugin"))
    assert (ran.code, ran.out.strip()) == (0, str(tmp_path / "plugin"))
    assert ran.err.endswith("plugin: made\n")
    server = objects(tmp_path / "plugin")["mcp.json"]["mcpServers"]["agentbus"]
    assert re.search(r"agentbus-mcp(\.exe)?$", " ".join([server["command"], *server["args"]]))
    assert sys.executable
    ran = await run_cli("plugin", "build", str(tmp_path / "plugin"), "--config", str(tmp_path / "none.toml"))
    assert ran.code == 1
