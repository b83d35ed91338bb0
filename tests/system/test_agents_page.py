"""AGENTS.md and the pages for contributors name what exists: paths, targets of the Makefile, other pages."""

import re
from pathlib import Path

import pytest
import yaml

from support.harness import ROOT

PAGES = [ROOT / name for name in ("AGENTS.md", "CONTRIBUTING.md", "SECURITY.md")]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@each_page
def test_a_path_in_backquotes_exists(path: Path) -> None:
    quoted = re.findall(r"`((?:[\w.-]+/)[\w./-]*|[\w-]+\.(?:toml|md|py|lock))`", path.read_text(encoding="utf-8"))
    inside = [ROOT / "mcp_server" / "agentbus_mcp", ROOT / "agentbus" / "cli", ROOT / "docs", ROOT]
    made = {"build/", "bus.toml"}  # by make, by `agentbus init`
    missing = [name for name in quoted if name not in made and not any((folder / name).exists() for folder in inside)]
    assert missing == []


@each_page
def test_a_named_make_target_exists(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([\w-]+):", MAKEFILE))
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)(?:^|`)make ([\w-]+)", text)) <= targets


@each_page
def test_a_link_points_to_an_existing_file(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_map_names_each_folder_of_the_three_packages() -> None:
    text = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
    packages = [ROOT / "agentbus", ROOT / "worker" / "agentbus_worker", ROOT / "mcp_server" / "agentbus_mcp"]
    folders = [path for package in packages for path in package.iterdir() if (path / "__init__.py").is_file()]
    assert len(folders) > 10
    assert [path.name for path in folders if f"{path.name}/`" not in text] == []


def test_each_issue_form_has_required_fields_and_each_field_has_a_label() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "feature"}
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert form["name"]
        assert form["description"]
        assert len({field["id"] for field in fields}) == len(fields) > 0
        assert all(field["attributes"]["label"] for field in fields)
        assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_pre_commit_hooks_run_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    check = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0].replace("$(BIN)", ".venv/bin")
    for hook in hooks:
        assert hook["entry"].removesuffix(" --force-exclude") in check


def test_each_commit_in_git_blame_ignore_revs_has_its_full_id() -> None:
    lines = (ROOT / ".git-blame-ignore-revs").read_text(encoding="utf-8").splitlines()
    commits = [line for line in lines if line and not line.startswith("#")]
    assert commits
    assert [line for line in commits if not re.fullmatch(r"[0-9a-f]{40}", line)] == []
