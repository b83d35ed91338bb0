"""`make screenshots`: a picture of each screen of the page, in light and dark, for the documentation."""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Literal

from playwright.async_api import Page

from agentbus import connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import run_server
from support.chromium import PHONE, chromium, link_for_another, person
from support.harness import ROOT
from support.staged_day import stage
from support.ui_page import ui_server

SCREENS = {
    "overview": "",
    "task": "task/code/cart-totals",
    "work": "task/code/cart-rounding",
    "questions": "questions",
    "agents": "agents",
    "cost": "cost",
    "new-task": "new?agent=code",
}
SIZE = (960, 640)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def take(page: Page, folder: Path, scheme: str) -> None:
    """Take the picture of each screen."""
    for name, path in SCREENS.items():
        await page.goto(f"{page.url.partition('#')[0]}#/{path}")
        await page.locator("main > *").first.wait_for()
        if name == "work":
            await page.get_by_role("button", name="Show the changes").click()
            await page.locator(".diff").first.wait_for()
        await page.wait_for_load_state("networkidle") if name in ("cost", "agents") else None
        await page.wait_for_timeout(700)
        await page.screenshot(path=folder / f"{name}-{scheme}.png", scale="css")


async def run(folder: Path) -> None:
    """Stage a day, and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        async with run_server(store=Path(name) / "nats") as server, connect(server.url) as bus:
            await set_up(bus.bus)
            await stage(bus)
            async with ui_server(Path(name) / "ui.log", "--nats-url", server.url) as ui, chromium() as browser:
                token = ui.token
                for scheme in SCHEMES:
                    async with person(browser, ui, token=token, size=SIZE, scheme=scheme) as page:
                        await take(page, folder, scheme)
                        token = await link_for_another(page)
                async with person(browser, ui, token=token, size=PHONE, scheme="light") as page:
                    await page.get_by_role("button", name="Approve").wait_for()
                    await page.wait_for_timeout(700)
                    await page.screenshot(path=folder / "phone-light.png", scale="css")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--to", type=Path, default=ROOT / "docs" / "images" / "page")
    asyncio.run(run(options.parse_args().to))
