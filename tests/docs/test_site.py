"""`make docs` builds all pages, with a search, their Markdown and an overview for language models."""

import json
import re
import shutil
from pathlib import Path

import pytest

import docs_site
from support.documentation import PAGES
from support.harness import ROOT

pytestmark = pytest.mark.posix("the documentation is checked on one system")


def test_the_site_has_every_page_as_html_and_as_markdown(tmp_path: Path) -> None:
    number = docs_site.build(tmp_path)
    site = tmp_path / "site"
    markdown = {str(path.relative_to(site)) for path in site.rglob("*.md")}
    assert len(markdown) == number >= len(PAGES)
    assert {str(path.relative_to(site).with_suffix(".md")) for path in site.rglob("*.html")} == {*markdown, "404.md"}
    assert set(re.findall(r"\]\(([^)]+)\)", (site / "llms.txt").read_text(encoding="utf-8"))) == markdown
    searched = json.dumps(json.loads((site / "search.json").read_text(encoding="utf-8")))
    assert "compare-and-set" in searched
    assert not any("<!-- test:" in (site / page).read_text(encoding="utf-8") for page in markdown)


@pytest.mark.parametrize(
    ("page", "addition", "reason"),
    [
        ("docs/operations.md", "[gone](gone.md)", r"docs/operations\.md"),
        ("docs/operations.md", "[gone](../config/gone.toml)", "config/gone.toml is no file"),
        ("docs/how-to/new.md", "# New", "zensical.toml or in docs/, not in both: docs/how-to/new.md"),
    ],
)
def test_a_link_or_a_page_that_leads_nowhere_is_refused(
    page: str, addition: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    for name in ("docs", "skills", "config", "deploy", "agentbus"):
        shutil.copytree(ROOT / name, root / name)
    for file in [*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "pyproject.toml"]:
        shutil.copy(file, root / file.name)
    with (root / page).open("a", encoding="utf-8") as text:
        text.write(f"\n{addition}\n")
    monkeypatch.setattr(docs_site, "ROOT", root)
    with pytest.raises(docs_site.SiteError, match=reason):
        docs_site.build(tmp_path)
