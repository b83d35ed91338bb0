"""A real Chromium that looks at a page, driven by Playwright. Where there is none, a test says so and is skipped."""

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from support.ui_page import UiServer

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-crash-reporter",
)  # fmt: skip
PHONE = (390, 844)
DESK = (1180, 800)
WAIT_MS = 60_000
"""How long a page may take to show something: only a failing test waits so long."""


def executable() -> str:
    """The browser of this machine; skips the test where it has none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium here: `make chromium` installs it, as root on Debian")
    return found


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """A browser without a window."""
    path = executable()
    # Its sockets lie in its temporary folder, and the path of a socket has a hundred characters.
    with TemporaryDirectory(prefix="chromium-", dir="/tmp", ignore_cleanup_errors=True) as tmp:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=path, args=list(FLAGS), env={**os.environ, "TMPDIR": tmp}
            )
            try:
                yield browser
            finally:
                await browser.close()


@asynccontextmanager
async def person(
    browser: Browser,
    ui: UiServer,
    *,
    token: str | None = None,
    size: tuple[int, int] = DESK,
    scheme: Literal["light", "dark"] = "light",
) -> AsyncGenerator[Page]:
    """A person with a browser of their own, signed in by a link. What the page logs as an error fails the test."""
    context: BrowserContext = await browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce", locale="en-GB"
    )
    context.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    try:
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        await page.goto(f"{ui.url}#token={token or ui.token}")
        await page.get_by_role("region", name="Needs you").wait_for()
        yield page
    finally:
        await context.close()
    # A request that was refused, or broke off with its server, is logged by the browser itself.
    wrong = [fault for fault in faults if "Failed to load resource" not in fault]
    assert not wrong, wrong


async def link_for_another(page: Page) -> str:
    """The token of a link that a signed-in page gives for another browser."""
    await page.get_by_label("More").click()
    await page.get_by_role("button", name="Link for another browser").click()
    link = await page.get_by_label("Link", exact=True).input_value()
    await page.get_by_role("button", name="Close").click()
    return link.partition("#token=")[2]


async def publish(page: Page, agent: str, content: str) -> str:
    """Publish a task with the form; its name, once its page is shown."""
    await page.get_by_role("link", name="New task").click()
    await page.get_by_label("Agent", exact=True).fill(agent)
    await page.get_by_label("What it is to do").fill(content)
    await page.get_by_role("button", name="Publish").click()
    await page.wait_for_url("**#/task/**")
    return page.url.partition("#/task/")[2]
