"""Builds the documentation as a site in build/site, with Zensical; `make docs` runs it.

The site has the tree of the repository, so relative links hold in both. Beside each HTML page lies its Markdown, and
`llms.txt` lists the Markdown of all pages. A broken link, or a page that is missing in the navigation, fails the build.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "zensical.toml"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")


class SiteError(Exception):
    """The site cannot be built: says what to change."""


def main() -> int:
    """Build the site; returns the exit code."""
    try:
        pages = build(ROOT / "build")
    except SiteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{pages} pages in build/site; start with build/site/index.html")
    return 0


def build(folder: Path) -> int:
    """Build source and site in a folder; returns the number of pages.

    Raises:
        SiteError: a link leads nowhere, or a page is not in the navigation.
    """
    source, site = folder / "site-source", folder / "site"
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))
    listed = list(navigation(config["project"]["nav"]))
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    pages = sorted(copy_pages(source))
    if missing := sorted(set(pages) ^ {page for _, _, page in listed}):
        raise SiteError(f"these pages are in zensical.toml or in docs/, not in both: {', '.join(missing)}")
    run_zensical(folder)
    for page in pages:
        shutil.copy(source / page, site / page)
    (site / "llms.txt").write_text(llms_txt(config["project"], listed), encoding="utf-8")
    return len(pages)


def navigation(entries: list[dict[str, Any]], section: str = "") -> Iterator[tuple[str, str, str]]:
    """The section, title and page of each entry of the navigation, in order."""
    for entry in entries:
        for title, target in entry.items():
            if isinstance(target, str):
                yield section, title, target
            else:
                yield from navigation(target, title)


def copy_pages(source: Path) -> Iterator[str]:
    """Copy every page, and every file to which one links; yields the pages by their path on the site."""
    folders = [ROOT / "docs", ROOT / "skills"]
    pages = sorted(ROOT.glob("*.md")) + [page for folder in folders for page in sorted(folder.rglob("*.md"))]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        # What tests do with a block is of no use to a reader.
        text = re.sub(r"<!-- test: .+ -->\n", "", text)
        for name in {found[2] for found in LINK.finditer(text)}:
            copy_linked(page, name, source)
        name = as_index(page.relative_to(ROOT).as_posix())
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(LINK.sub(to_index, text), encoding="utf-8")
        yield name


def copy_linked(page: Path, name: str, source: Path) -> None:
    """Copy a file to which a page links and which is no page itself."""
    if "://" in name or name.startswith("mailto:") or name.endswith(".md"):
        return
    file = (page.parent / name).resolve()
    if not file.is_file():
        raise SiteError(f"{page.relative_to(ROOT)}: {name} is no file")
    target = source / file.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def as_index(name: str) -> str:
    """The README of a folder has the name that a site wants for the first page of a folder."""
    return re.sub(r"(^|/)README\.md$", r"\1index.md", name)


def to_index(link: re.Match[str]) -> str:
    """A link to a README leads to the first page of its folder."""
    return f"{link[1]}{as_index(link[2])}{link[3] or ''})"


def run_zensical(folder: Path) -> None:
    """Run the site generator over the copied pages, with warnings as errors."""
    config = folder / "zensical.toml"
    config.write_text(CONFIG.read_text(encoding="utf-8").replace('"build/', '"'), encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("zensical")),
        "build",
        "--clean",
        "--strict",
        "--config-file",
        str(config),
    ]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        raise SiteError(f"zensical refuses the pages:\n{said.partition('Traceback')[0]}")


def llms_txt(project: dict[str, Any], listed: list[tuple[str, str, str]]) -> str:
    """The overview for language models, in the form of https://llmstxt.org."""
    lines = [f"# {project['site_name']}", "", f"> {project['site_description']}"]
    last = None
    for section, title, page in listed:
        if section != last:
            lines += ["", f"## {section or 'Start'}", ""]
            last = section
        lines.append(f"- [{title}]({page})")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
