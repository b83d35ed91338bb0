"""The workflows of GitHub: pinned, with as few rights as they need, and running what the Makefile runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.harness import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def steps(path: Path) -> list[dict[str, Any]]:
    """The steps of all jobs of a workflow."""
    jobs: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "release"]


@every_workflow
def test_every_action_is_pinned_to_a_commit_with_its_version_as_a_comment(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@every_workflow
def test_a_workflow_has_read_permissions_and_keeps_no_credential_in_its_checkout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    assert "pull_request_target" not in text


@every_workflow
def test_each_make_target_of_a_workflow_exists(path: Path) -> None:
    targets = set(re.findall(r"(?m)^([\w-]+):", MAKEFILE))
    made = [word for step in steps(path) for word in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))]
    assert set(made) <= targets


def test_the_windows_job_excludes_only_tests_with_the_marker() -> None:
    job: dict[str, Any] = yaml.safe_load((FOLDER / "ci.yml").read_text(encoding="utf-8"))["jobs"]["windows"]
    assert job["runs-on"] == "windows-latest"
    commands = [step["run"] for step in job["steps"] if "run" in step]
    left_out = ("posix", "large", "long", "attacks", "cluster", "browser")
    assert f'python -m pytest -m "{" and ".join(f"not {mark}" for mark in left_out)}"' in commands
    assert not any("tests/" in command for command in commands), "a file that is named by hand"


# -- the release ------------------------------------------------------------------------------------------------


def release_jobs() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "release.yml").read_text(encoding="utf-8"))["jobs"]


def test_a_release_is_built_by_the_target_of_the_dry_run() -> None:
    build = release_jobs()["build"]["steps"]
    commands = [step["run"] for step in build if "run" in step]
    assert commands == ["make check", "make test", 'make release-check TAG="$GITHUB_REF_NAME"']
    kept = [step["with"]["path"] for step in build if "upload-artifact" in step.get("uses", "")]
    recipe = MAKEFILE.partition("\nrelease-check:")[2].partition("\n\n")[0]
    assert kept == ["dist/", "build/release/sbom.cdx.json"]
    for step in ("tools/release.py $(TAG)", "--outdir dist", "check --strict dist/*", "-o build/release/sbom.cdx.json"):
        assert step in recipe


def test_only_the_publishing_job_may_sign_in_to_the_index_and_it_runs_no_code_of_this_repository() -> None:
    jobs = release_jobs()
    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    publish = jobs["publish"]
    assert (publish["needs"], publish["environment"]["name"]) == ("build", "pypi")
    assert [step.get("uses", "").partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert publish["steps"][-1]["with"] == {"attestations": True}
