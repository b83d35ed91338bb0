"""Links, pictures and names in the documentation lead somewhere."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.documentation import DOCS, HOW_TO, PAGES
from support.harness import ROOT

SKILL_TROUBLESHOOTING = ROOT / "skills" / "agentbus" / "references" / "troubleshooting.md"
pytestmark = pytest.mark.posix("the documentation is checked on one system")


def anchor(heading: str) -> str:
    """The anchor that code hosts give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, f"{page.name}: {target}"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_small_and_fit_light_and_dark_pages(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert len(text) < 16_384
    assert "prefers-color-scheme: dark" in text
    drawing = ET.fromstring(text)
    assert drawing.find("{http://www.w3.org/2000/svg}desc") is not None, "for those who cannot see it"
    assert "<script" not in text


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, page.name


def test_pages_that_code_and_configurations_name_exist() -> None:
    folders = ("agentbus", "mcp_server", "worker", "config", "deploy", "skills")
    named = {
        name
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml", ".conf", ".md", ".yaml", ".service", ".plist") or path.name == "Dockerfile"
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_overview_of_the_documentation_names_every_page() -> None:
    overview = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in overview] == []


QUOTED_FROM_OTHERS = (
    "self-signed certificate",
    "Invalid Host header",
    "Invalid Origin header",
    "Session not found",
    "Too many open sessions",
)
"""What OpenSSL and the MCP SDK say."""


@pytest.mark.parametrize("page", [HOW_TO / "troubleshooting.md", SKILL_TROUBLESHOOTING], ids=str)
def test_messages_that_troubleshooting_explains_are_messages_of_the_code(page: Path) -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("agentbus", "mcp_server", "worker")
        for path in (ROOT / folder).rglob("*.py")
    )
    # Literals over several lines become one, and what is filled in becomes `…`, as on the page.
    code = re.sub(r"\{[^{}]*\}", "…", re.sub(r'"\s*\n\s*f?"', "", code))
    quoted = [
        part.strip(" :.,`")
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
        for message in re.findall(r"`([^`]+)`", line.split(" | ")[0])
        for part in re.split(r"…|<id>|\d+", message)
    ]
    unknown = [part for part in quoted if len(part) > 9 and part not in code and not part.endswith(QUOTED_FROM_OTHERS)]
    assert unknown == []


def test_modules_that_the_design_page_names_exist() -> None:
    folders = {"agentbus": ".", "agentbus_mcp": "mcp_server", "agentbus_worker": "worker"}
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:agentbus|agentbus_mcp|agentbus_worker)(?:\.\w+)+)`", text):
        path = ROOT / folders[name.partition(".")[0]] / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), name
