"""What `make release-check` asks before it builds: the version, the tag, server.json and the change log agree."""

import json
from pathlib import Path

import pytest

import release
from agentbus.version import __version__
from support.harness import ROOT


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "agentbus").mkdir()
    (tmp_path / "agentbus" / "version.py").write_text('"""It."""\n\n__version__ = "1.2.3"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2027-01-01\n", encoding="utf-8")
    entry = {"version": "1.2.3", "packages": [{"version": "1.2.3"}]}
    (tmp_path / "server.json").write_text(json.dumps(entry), encoding="utf-8")
    return tmp_path


def test_the_versions_of_this_tree_agree() -> None:
    assert release.version_of(ROOT) == __version__
    assert list(release.disagreements(ROOT)) == []


def test_a_tag_equal_to_the_version_is_accepted(tree: Path) -> None:
    assert list(release.disagreements(tree, "v1.2.3")) == []


def test_another_tag_and_a_version_without_a_change_log_are_refused(tree: Path) -> None:
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n", encoding="utf-8")
    assert list(release.disagreements(tree, "v1.2.4")) == [
        "the tag is v1.2.4; agentbus/version.py asks for v1.2.3",
        "CHANGELOG.md: there is no heading ## [1.2.3]; give [Unreleased] its version and date",
    ]


def test_a_registry_entry_of_another_version_is_refused(tree: Path) -> None:
    entry = {"version": "1.2.2", "packages": [{"version": "1.2.1"}]}
    (tree / "server.json").write_text(json.dumps(entry), encoding="utf-8")
    assert list(release.disagreements(tree)) == [
        "server.json: version is 1.2.2; agentbus/version.py says 1.2.3",
        "server.json: packages[0].version is 1.2.1; agentbus/version.py says 1.2.3",
    ]
