"""A whole day on the page, in a real Chromium: `make browser`."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from agentbus import Coordinator
from agentbus.protocol.messages import Failure
from agentbus.protocol.progress.events import RunEvent
from agentbus.protocol.work.results import PATCH, Changes, Commit
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.output_store import put_file
from support.acp_agent import __file__ as acp_agent
from support.asking_worker import asking, claim
from support.chromium import PHONE, WAIT_MS, chromium, link_for_another, person, publish
from support.conversing import conversing_worker, home
from support.event_agent import __file__ as event_agent
from support.harness import worker, worker_toml
from support.in_pieces import in_pieces
from support.jobs import agent_keys
from support.left_work import artifact
from support.mcp_harness import settle
from support.outage import outage_of
from support.repositories import source_repository
from support.staged_day import be_alive, stage, tell
from support.ui_page import UiServer, ui_server

pytestmark = [pytest.mark.browser, pytest.mark.posix("needs a worker")]
expect.set_options(timeout=WAIT_MS)

SCRIPT: Final = '"><script>window.taken=1</script><img src=x onerror="window.taken=1">'
SCREENS: Final = ("", "questions", "agents", "tasks", "cost", "new", "task/code/cart-totals", "task/code/cart-rounding",
                  "task/code/fix-login", "task/docs/translate-returns")  # fmt: skip
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")


@asynccontextmanager
async def page_of(folder: Path, url: str, *args: str) -> AsyncGenerator[tuple[UiServer, Browser]]:
    async with ui_server(folder / "ui.log", "--nats-url", url, *args) as ui, chromium() as browser:
        yield ui, browser


async def go(page: Page, ui: UiServer, path: str) -> None:
    await page.goto(f"{ui.url}#/{path}")


def asking_worker(folder: Path, url: str) -> Path:
    """The configuration of a worker whose agent asks before it makes a file, and listens to what it is told."""
    (folder / "work").mkdir(parents=True)
    command = [sys.executable, acp_agent, "ask", "say=I have done what I may.", "listens"]
    config = worker_toml(folder, url, agent="cleaner", chat_cmd=command)
    return agent_keys(config, output="acp", permissions="ask", folder=str(folder / "work"))


def top(page: Page) -> Locator:
    return page.locator(".part-top")


async def test_a_day_from_the_first_task_to_the_cost(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    talking, shop = tmp_path / "talking", tmp_path / "shop"
    shop.mkdir()
    script = "echo two >> README; git commit -qam 'A second line'; echo changed it"
    source = str(source_repository(tmp_path / "source"))
    toml = worker_toml(shop, server.url, agent="shop", chat_cmd=["bash", "-c", script], repository={"source": source})
    cleaning = tmp_path / "cleaning"
    async with (
        worker(conversing_worker(talking, server.url), env=home(talking)),
        worker(agent_keys(toml, prompt_via="stdin")),
        worker(asking_worker(cleaning, server.url)),
        page_of(tmp_path, server.url) as (ui, browser),
        person(browser, ui) as page,
    ):
        go_on = tmp_path / "go-on"
        await publish(page, "code", f"remember tea\nwait {go_on}")
        await expect(top(page)).to_contain_text("running")
        go_on.touch()
        await expect(page.get_by_role("region", name="Answer")).to_contain_text("done")
        await expect(top(page)).to_contain_text("$0.25")
        await page.get_by_label("Follow up").last.fill("recall")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("region", name="Answer")).to_contain_text("tea")
        await expect(page.get_by_role("region", name="The conversation before")).to_contain_text("remember tea")

        [first] = [one.task_id for one in (await coordinator.list_tasks()).tasks if not one.continues]
        await go(page, ui, f"task/code/{first}")
        await expect(page.get_by_role("region", name="How it went on")).to_contain_text("recall")

        await answer_its_questions(page, browser, ui, cleaning / "work" / "made")

        await publish(page, "shop", "Add a line")
        await expect(page.get_by_role("region", name="Work")).to_contain_text("A second line")
        await page.get_by_role("button", name="Show the changes").click()
        await expect(page.locator(".diff .added")).to_have_text("+two\n")

        await publish(page, "code", f"wait {tmp_path / 'never'}")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(top(page).locator(".state")).to_contain_text("cancelled")

        await page.get_by_role("link", name="Agents").click()
        await page.get_by_role("listitem").filter(has_text="shop").get_by_role("button", name="Pause").first.click()
        await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        await expect(page.locator("main")).to_contain_text("paused by hand")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("main")).not_to_contain_text("paused by hand")

        await page.keyboard.press("c")
        await expect(page.get_by_role("region", name="By agent").first).to_contain_text("code$0.5")
        await page.keyboard.press("?")
        await expect(page.get_by_role("dialog")).to_contain_text("Next row")


async def answer_its_questions(page: Page, browser: Browser, ui: UiServer, made: Path) -> None:
    """Deny what the agent wants with a reason, on a phone, and approve it on the page; it goes on after each."""
    await publish(page, "cleaner", "Clean up")
    async with person(browser, ui, token=await link_for_another(page), size=PHONE) as phone:
        await phone.get_by_role("link", name="Questions").click()
        await expect(phone.locator("main")).to_contain_text("touch made")
        await phone.get_by_role("textbox").fill("not on a Friday")
        await phone.get_by_role("button", name="Deny").click()
        await expect(phone.locator("main")).to_contain_text("No agent asks anything.")
    await expect(page.get_by_role("region", name="Answer")).to_contain_text("The reason: not on a Friday")
    await expect(page.get_by_role("region", name="Usage")).to_contain_text("execute: touch made")
    assert not made.exists()
    await publish(page, "cleaner", "Clean up all the same")
    await page.get_by_role("button", name="Approve").click()
    await expect(page.get_by_role("region", name="Answer")).to_contain_text("I have done what I may.")
    assert made.exists()


async def test_text_of_an_agent_is_text_in_every_field_that_it_writes(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await stage(coordinator)
    await be_alive(
        coordinator, "code", instance="evil", host=SCRIPT, version=SCRIPT, description=SCRIPT, command=SCRIPT,
        paused={"code": SCRIPT[:60], "reason": SCRIPT, "until": ""}, place=None,
    )  # fmt: skip
    await coordinator.publish("code", SCRIPT, task_type=SCRIPT[:100], sender="main", task_id="evil")
    run = await claim(coordinator, "evil")
    await tell(
        coordinator, run.key, RunEvent("start", 1, SCRIPT, SCRIPT), RunEvent("text", 2, SCRIPT),
        RunEvent("tool", 3, SCRIPT, SCRIPT), RunEvent("tool_end", 4, SCRIPT, SCRIPT, ok=False),
        RunEvent("retry", 5, SCRIPT), RunEvent("notice", 6, SCRIPT),
    )  # fmt: skip
    await run.ask(SCRIPT, {"command": SCRIPT, SCRIPT: SCRIPT}, SCRIPT)
    patch = (
        f"diff --git a/{SCRIPT} b/{SCRIPT}\n--- a/x\n+++ b/x\n@@ {SCRIPT}\n+{SCRIPT}\n-{SCRIPT}\n {SCRIPT}\n".encode()
    )
    described = artifact(PATCH, patch, "evil-2")
    await coordinator.publish("code", SCRIPT, task_id="evil-2")
    await put_file(coordinator.bus, "code", described.object, in_pieces(patch))
    changes = Changes("1" * 40, "agentbus/x", "2" * 40, log=(Commit("2" * 40, SCRIPT),))
    await settle(
        coordinator, "evil-2", SCRIPT, status="failed", error=SCRIPT, failure=Failure("exit", SCRIPT),
        extra={"artifacts": [described.to_json()], "changes": changes.to_json(),
               "run": {"format": "claude", "kind": SCRIPT, "version": SCRIPT, "model": SCRIPT, "session": SCRIPT,
                       "denied": [{"tool": SCRIPT, "summary": SCRIPT}]}},
    )  # fmt: skip
    async with page_of(tmp_path, server.url) as (ui, browser), person(browser, ui) as page:
        for path in ("", "questions", "agents", "tasks", "cost", "task/code/evil", "task/code/evil-2"):
            await go(page, ui, path)
            shown = {"cost": "docs", "": "evil-2"}.get(path, "<script>")
            await expect(page.locator("main")).to_contain_text(shown)
            if path == "task/code/evil":
                await expect(page.get_by_role("list", name="What the agent does")).to_contain_text("<script>")
            if path == "task/code/evil-2":
                await page.get_by_role("button", name="Show the changes").click()
                await expect(page.locator(".diff").first).to_contain_text("<script>")
            assert await page.evaluate("window.taken") is None, path
            assert (
                await page.locator("main script, main img, main iframe, main [onerror], main [style*=url]").count() == 0
            )


async def test_of_two_people_who_answer_at_once_one_is_told(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await asking(coordinator, "ask", "rm -r build")
    async with (
        page_of(tmp_path, server.url) as (ui, browser),
        person(browser, ui) as one,
        person(browser, ui, token=await link_for_another(one)) as other,
    ):
        pressed = [one.get_by_role("button", name="Approve"), other.get_by_role("button", name="Deny")]
        for button in pressed:
            await button.wait_for()
        await asyncio.gather(*(button.click() for button in pressed))
        said = [await page.locator(".note").first.inner_text() for page in (one, other)]
        assert sum("the first answer counts" in text for text in said) == 1, said
        assert sum(text.startswith(("Approved", "Denied")) for text in said) == 1, said
        for page in (one, other):
            await expect(page.locator(".question")).to_have_count(0)
            await expect(page.get_by_role("region", name="Needs you")).to_contain_text("lost")  # it has no worker


async def test_a_used_link_says_what_to_do_and_a_page_of_another_server_reaches_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with page_of(tmp_path, server.url) as (ui, browser), person(browser, ui) as page:
        context = await browser.new_context()
        other = await context.new_page()
        await other.goto(ui.link)
        await expect(other.get_by_role("alert")).to_contain_text("This link was used, or is too old")
        await other.get_by_label("Token or link").fill("wrong")
        await other.get_by_role("button", name="Sign in").click()
        await expect(other.get_by_role("alert")).to_contain_text("Press Enter where agentbus ui runs")
        await context.close()
        # A page of another port of this machine, in the browser that is signed in.
        async with ui_server(tmp_path / "evil.log", "--nats-url", server.url) as evil:
            attacker = await page.context.new_page()
            await attacker.goto(evil.url)
            reached = await attacker.evaluate(
                """async (url) => {
                    const tries = [];
                    const none = () => "no";
                    for (const options of [{}, {mode: "no-cors"}, {credentials: "include"}])
                        for (const path of ["api/board", "api/session", ""])
                            tries.push(await fetch(url + path, options).then((got) => got.type, none));
                    const act = {method: "POST", mode: "no-cors", body: '{"to":"code","content":"x"}'};
                    tries.push(await fetch(url + "api/act/publish", act).then((got) => got.type, none));
                    return tries;
                }""",
                ui.url,
            )
            assert set(reached) == {"no"}, reached  # its own policy forbids it to ask, and this one would refuse it
        assert (await coordinator.list_tasks()).tasks == []
        await page.get_by_label("More").click()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("alert")).to_contain_text("signed out")


async def test_a_page_whose_server_was_started_anew_says_what_to_do_and_goes_on_once_the_new_link_is_open(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "Still there", task_id="still")
    async with chromium() as browser, AsyncExitStack() as before, AsyncExitStack() as looking:
        ui = await before.enter_async_context(ui_server(tmp_path / "first.log", "--nats-url", server.url))
        page = await looking.enter_async_context(person(browser, ui))
        await go(page, ui, "task/code/still")
        await expect(top(page)).to_contain_text("queued")
        await before.aclose()
        await expect(page.locator("#banner")).to_contain_text("agentbus ui does not answer")
        async with ui_server(tmp_path / "again.log", "--nats-url", server.url, "--port", str(ui.port)) as again:
            said = page.get_by_role("alert")
            await expect(said).to_contain_text("a server that is started anew ends all sessions")
            await expect(said).to_contain_text("Press Enter where agentbus ui runs for a new link")
            await (await page.context.new_page()).goto(again.link)
            await expect(top(page)).to_contain_text("queued")
            await looking.aclose()


async def test_ten_browsers_look_at_once(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with page_of(tmp_path, server.url) as (ui, browser), AsyncExitStack() as stack:
        first = await stack.enter_async_context(person(browser, ui))
        pages = [first]
        for _ in range(9):
            token = await link_for_another(first)
            pages.append(await stack.enter_async_context(person(browser, ui, token=token)))
        await coordinator.publish("code", "Seen by ten", task_id="seen")
        for page in pages:
            await expect(page.get_by_role("region", name="Queued")).to_contain_text("Seen by ten")


async def test_the_page_says_that_the_bus_is_away_and_goes_on_by_itself(tmp_path: Path):
    async with outage_of(tmp_path / "nats") as outage:
        await outage.bus.publish("code", "Before it", task_id="before")
        async with page_of(tmp_path, outage.url) as (ui, browser), person(browser, ui) as page:
            await expect(page.get_by_role("region", name="Queued")).to_contain_text("Before it")
            outage.begin()
            await expect(page.locator("#banner")).to_contain_text("The bus is away")
            await expect(page.get_by_role("region", name="Queued")).to_contain_text("Before it")
            await page.get_by_role("link", name="New task").click()
            await page.get_by_label("Agent", exact=True).fill("code")
            await page.get_by_label("What it is to do").fill("In vain")
            await page.get_by_role("button", name="Publish").click()
            await expect(page.locator(".note.fault")).to_contain_text("the bus is away")
            await outage.end()
            await expect(page.locator("#banner")).to_be_empty()
            await page.get_by_role("button", name="Publish").click()
            await expect(top(page)).to_contain_text("queued")
            await page.keyboard.press("o")
            await expect(page.get_by_role("region", name="Queued")).to_contain_text("In vain")


async def test_an_hour_of_events_in_a_minute_lets_neither_the_page_nor_its_share_of_the_line_grow(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    flood = " ".join(["flood:60000 sleep:0.2"] * 60)  # 3,600 events, as of one a second
    command = ["python3", event_agent, "{input}"]
    config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command), output="claude")
    async with (
        worker(config),
        worker(worker_toml(tmp_path, server.url, agent="quick", worker={"concurrency": 2})),
        page_of(tmp_path, server.url) as (ui, browser),
        person(browser, ui) as page,
        person(browser, ui, token=await link_for_another(page)) as overview,
    ):
        await publish(page, "code", f"{flood} done:end")
        await expect(page.locator(".log li").first).to_be_visible()
        devtools: Any = await page.context.new_cdp_session(page)
        received = list[int]()
        await devtools.send("Network.enable")

        def note(event: dict[str, Any]) -> None:
            received.append(int(event["dataLength"]))

        devtools.on("Network.dataReceived", note)
        began = asyncio.get_running_loop().time()
        early = await _weight(page), await _weight(overview)
        for number in range(120):
            await coordinator.publish("quick", f"say:{number}")
        await expect(top(page).locator(".state")).to_contain_text("completed", timeout=10 * WAIT_MS)
        await expect(overview.get_by_role("region", name="Settled")).to_contain_text("completed")
        took = asyncio.get_running_loop().time() - began
        late = await _weight(page), await _weight(overview)
        for before, after in zip(early, late, strict=True):
            assert after["nodes"] < before["nodes"] + 6_000, (before, after)
            assert after["heap"] < before["heap"] + 6_000_000, (before, after)
        assert late[0]["elements"] < 2_500
        assert sum(received) / took < 20_000, f"{sum(received) / took:,.0f} bytes a second"


async def _weight(page: Page) -> dict[str, float]:
    devtools: Any = await page.context.new_cdp_session(page)
    await devtools.send("HeapProfiler.collectGarbage")
    await devtools.send("Performance.enable")
    found = {one["name"]: one["value"] for one in (await devtools.send("Performance.getMetrics"))["metrics"]}
    elements = await page.evaluate("document.querySelectorAll('*').length")
    await devtools.detach()
    return {"nodes": found["Nodes"], "heap": found["JSHeapUsedSize"], "elements": elements}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", [(1180, 800), PHONE], ids=["desk", "phone"])
async def test_axe_finds_nothing_serious(
    scheme: Literal["light", "dark"], size: tuple[int, int], tmp_path: Path, server: NatsServer,
    coordinator: Coordinator,
):  # fmt: skip
    if (axe := os.environ.get("AGENTBUS_TEST_AXE")) is None:
        pytest.skip("axe-core comes from npm: `make browser`")
    source = await asyncio.to_thread(Path(axe).read_text, encoding="utf-8")
    await stage(coordinator)
    async with (
        page_of(tmp_path, server.url) as (ui, browser),
        person(browser, ui, scheme=scheme, size=size) as page,
    ):
        for path in SCREENS:
            await go(page, ui, path)
            await page.locator("main > *").first.wait_for()
            if path.endswith("cart-rounding"):
                await page.get_by_role("button", name="Show the changes").click()
                await page.locator(".diff").first.wait_for()
            await page.wait_for_timeout(500)
            await page.evaluate(source)
            found: list[dict[str, Any]] = await page.evaluate(
                "async () => (await axe.run()).violations.map(one => ({id: one.id, impact: one.impact, "
                "nodes: one.nodes.map(node => node.html.slice(0, 200) + ' ' + node.failureSummary).slice(0, 3)}))"
            )
            serious = [one for one in found if one["impact"] in ("serious", "critical")]
            assert not serious, (path, serious)
