"""A person's way through the page, in a real Chromium: the part of it that the gate runs."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.chromium import PHONE, WAIT_MS, chromium, link_for_another, person, publish
from support.harness import eventually, worker, worker_toml
from support.ui_page import ui_server

pytestmark = pytest.mark.posix("needs a worker")
expect.set_options(timeout=WAIT_MS)

HOSTILE = "<img_src=x_onerror=window.taken=1><script>window.taken=1</script>"


async def test_a_person_publishes_watches_answers_on_a_phone_and_cancels(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    go_on = tmp_path / "go-on"
    async with (
        worker(worker_toml(tmp_path, server.url, worker={"concurrency": 2})),
        ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui,
        chromium() as browser,
        person(browser, ui) as page,
    ):
        await publish(page, "code", f"say:{HOSTILE} wait:{go_on} say:all_done")
        await expect(page.get_by_role("region", name="Log")).to_contain_text("<script>window.taken=1</script>")
        await expect(page.locator(".part-top")).to_contain_text("running")
        go_on.touch()
        await expect(page.get_by_role("region", name="Answer")).to_contain_text("all done")
        await expect(page.locator(".part-top")).to_contain_text("completed")
        assert await page.evaluate("window.taken") is None

        await coordinator.publish("code", "approval", task_id="ask")
        async with person(browser, ui, token=await link_for_another(page), size=PHONE) as phone:
            needs = phone.get_by_role("region", name="Needs you")
            await expect(needs).to_contain_text("may I delete the branch?")
            assert await phone.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
            await needs.get_by_role("button", name="Approve").click()
            await expect(needs).to_contain_text("Nothing waits for you.")

        await publish(page, "code", f"wait:{tmp_path / 'never'}")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_label("Why (optional)").fill("not needed")
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(page.locator(".part-top")).to_contain_text("Cancelled by agent-main: not needed")
        await expect(page.locator(".part-top .state")).to_contain_text("cancelled")
        await page.keyboard.press("o")
        await expect(page.get_by_role("region", name="Settled")).to_contain_text("completed")

    async def answered() -> bool:
        return (await coordinator.task("ask.answer").status()).settled

    await eventually(answered, "the agent went on after the answer")
