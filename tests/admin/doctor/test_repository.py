"""`agentbus doctor` checks the repository of a worker: git, the source, and the base."""

from pathlib import Path

import pytest

from agentbus.admin.doctor.repository import check_repository
from agentbus.config.loading import load_worker
from support.repositories import git, repository_worker, source_repository

pytestmark = pytest.mark.posix("workers run on POSIX systems")


async def test_git_the_source_and_its_base_are_checked_and_kept_work_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = source_repository(tmp_path / "source")

    async def findings(path: Path, **keys: str) -> dict[str, tuple[str, str]]:
        folder = tmp_path / "worker"
        config, _ = load_worker(repository_worker(folder, "nats://127.0.0.1:4222", path, "", repository=keys))
        return {one.check: (one.verdict, one.text) async for one in check_repository(config)}

    found = await findings(source, base="origin/main")
    assert found["repository"] == ("ok", f"{source}, origin/main")
    assert found["git"][0] == "ok"
    assert "work" not in found
    verdict, text = (await findings(source, base="gone"))["repository"]
    assert (verdict, text) == ("failed", f"{source} has no branch or tag gone")
    verdict, text = (await findings(tmp_path / "nowhere"))["repository"]
    assert verdict == "failed"
    assert "does not appear to be a git repository" in text
    git(tmp_path, "init", "-q", "empty")
    assert (await findings(tmp_path / "empty"))["repository"][1].endswith("has no commit yet")
    kept = tmp_path / "worker" / "state" / "bus" / "code" / "rescue" / "nonce" / "parcel.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await findings(source)
    assert found["work"] == ("warning", "runs have left work that no result names: 1")
    assert found["git"][0] == "failed"
