"""A bus in the middle of a day: what several agents have done, do and ask, written as their workers would write it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from agentbus import Coordinator
from agentbus.bus.pull_consumer import PullConsumer
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import Claim, claimed
from agentbus.protocol.messages import Failure, decode_task
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent, Spent
from agentbus.protocol.questions.question import Question
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.results import PATCH, Changes, Commit
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import put_file
from support.asking_worker import Run, claim
from support.in_pieces import in_pieces
from support.left_work import artifact
from support.mcp_harness import settle

AGENTS: Final = {
    "code": ("Writes and repairs code in shop", "claude -p"),
    "review": ("Reads changes, and says what is wrong with them", "codex exec"),
    "docs": ("Keeps the handbook true", "gemini"),
    "deploy": ("Brings releases to the shop", "bash deploy.sh"),
}
DIFF: Final = b"""diff --git a/shop/cart.py b/shop/cart.py
index 1111111..2222222 100644
--- a/shop/cart.py
+++ b/shop/cart.py
@@ -12,9 +12,11 @@ class Cart:
     def total(self) -> Decimal:
         \"\"\"The sum of all lines, with tax.\"\"\"
-        return sum(line.price for line in self.lines)
+        whole = sum((line.price * line.count for line in self.lines), Decimal(0))
+        return whole + self.tax_of(whole)

     def is_empty(self) -> bool:
-        return len(self.lines) == 0
+        return not self.lines
diff --git a/tests/test_cart.py b/tests/test_cart.py
new file mode 100644
index 0000000..3333333
--- /dev/null
+++ b/tests/test_cart.py
@@ -0,0 +1,3 @@
+def test_two_of_one_thing_cost_twice_as_much() -> None:
+    cart = Cart([Line("tea", price=Decimal(3), count=2)])
+    assert cart.total() == Decimal(6)
"""


async def stage(bus: Coordinator) -> None:
    """Fill the bus."""
    await set_up(bus.bus, [*AGENTS])
    for agent, (description, command) in AGENTS.items():
        if agent != "deploy":
            await be_alive(bus, agent, description=description, command=command, slots=2, free=1)
    await _settled(bus)
    await bus.bus.api("STREAM.PURGE.AGENT_TASKS")  # as their workers have acknowledged them
    await _running(bus)
    await bus.publish("deploy", "Bring release 2.4.1 to the shop", task_id="release-2.4.1")
    await bus.publish("docs", "Say in the handbook how returns work", task_id="handbook-returns")
    asks = await _begun(bus, "code", "fix-login", "Repair the login page", minutes=4)
    await _Asker(asks.bus, asks.key, asks.nonce).ask(
        "Bash", {"command": "git push origin fix-login"}, "The fix is ready; I want to push it for review."
    )


class _Asker(Run):
    """Asks at the time that it is, for a while."""

    def question(self, operation: str = "Bash", arguments: Json = None, text: str = "", number: int = 0) -> Question:
        asked = super().question(operation, arguments, text, number)
        return asked.model_copy(update={"asked_at": _ago(minutes=1), "until": _ago(minutes=-29)})


async def be_alive(bus: Coordinator, agent: str, **more: Any) -> None:
    """Register a worker, as it announces itself."""
    worker = {
        "agent": agent, "instance": f"{agent}-box-1", "host": f"{agent}-box", "pid": 1, "version": "0.1.0", "slots": 1,
        "free": 1, "started_at": _ago(hours=30), **more,
    }  # fmt: skip
    await bus.bus.store(f"$KV.AGENT_REGISTRY.{agent}.{worker['instance']}", json.dumps(worker).encode())


async def tell(bus: Coordinator, key: TaskKey, *events: RunEvent, spent: Spent | None = None, before: int = 0) -> None:
    """Tell what a run does."""
    elapsed = events[-1].elapsed_s if events else 0.0
    message = ProgressMessage("run-1", 1, elapsed, events, before=before, spent=spent or Spent())
    await bus.bus.store(names.of_task(key), encode(message.to_json()))


async def _begun(bus: Coordinator, agent: str, task_id: str, content: str, *, minutes: int) -> Run:
    await bus.publish(agent, content, task_id=task_id)
    await _take(bus, agent)
    run = await claim(bus, task_id, agent=agent)
    record = await run.record()
    begun = Claim(worker=f"{agent}-box-1", nonce=run.nonce, lease_s=600, since=_ago(minutes=minutes))
    await Ledger(bus.bus).write(
        run.key, claimed(record.entry, begun, 1).model_copy(update={"created_at": _ago(minutes=minutes + 2)}),
        revision=record.revision,
    )  # fmt: skip
    return run


async def _take(bus: Coordinator, agent: str) -> None:
    """Be given a task, and not settle it."""
    async with PullConsumer(bus.bus, subjects.TASKS_STREAM, subjects.durable(agent)) as consumer:
        await consumer.next()


async def _running(bus: Coordinator) -> None:
    run = await _begun(bus, "code", "cart-totals", "The total of a cart leaves out how many there are of a thing. "
                       "Find out why, repair it, and write a test that fails before.", minutes=3)  # fmt: skip
    await tell(
        bus, run.key,
        RunEvent("start", 0.8, name="sonnet"),
        RunEvent("text", 9.0, "I look at how the total is made, and at the tests that there are."),
        RunEvent("tool", 12.0, "rg -n 'def total' shop", name="Bash"),
        RunEvent("tool_end", 12.4, "shop/cart.py:13:    def total(self) -> Decimal:", name="Bash", ok=True),
        RunEvent("tool", 31.0, "shop/cart.py", name="Edit"),
        RunEvent("tool_end", 31.2, name="Edit", ok=True),
        RunEvent("tool", 64.0, "pytest -q tests/test_cart.py", name="Bash"),
        RunEvent("tool_end", 71.5, "1 failed, 11 passed", name="Bash", ok=False),
        RunEvent("text", 80.0, "The test fails, as it should: the tax is taken of one thing only."),
        RunEvent("tool", 95.0, "shop/cart.py", name="Edit"),
        spent=Spent(cost_usd=0.31, turns=9),
    )  # fmt: skip
    other = await _begun(bus, "review", "review-pr-118", "Review pull request 118", minutes=1)
    await tell(bus, other.key, RunEvent("text", 40.0, "Reading the second of five files"), spent=Spent(cost_usd=0.08))


async def _settled(bus: Coordinator) -> None:
    for number, (agent, task_id, cost, tokens) in enumerate(
        [
            ("docs", "handbook-links", 0.04, 18_000),
            ("review", "review-pr-116", 0.22, 96_000),
            ("code", "faster-search", 1.37, 412_000),
            ("review", "review-pr-117", 0.19, 71_000),
        ]
    ):
        await bus.publish(agent, f"Work {number}", task_id=task_id)
        await settle(bus, task_id, "Done.", agent=agent, extra=_run_of(cost, tokens))
    await bus.publish("docs", "Translate the page on returns", task_id="translate-returns")
    await settle(
        bus, "translate-returns", "", agent="docs", status="failed", error="its model refused: the credit is used up",
        failure=Failure("quota", "its model refused: the credit is used up", 429, 3_600), extra=_run_of(0.01, 900),
    )  # fmt: skip
    await with_changes(bus, "cart-rounding")


async def with_changes(bus: Coordinator, task_id: str) -> None:
    """A task of a repository that is settled, with its patch."""
    await bus.publish("code", "Round the total of a cart to cents, and test it", task_id=task_id)
    patch = artifact(PATCH, DIFF, task_id)
    notes = artifact("notes.md", b"# Notes\n", task_id)
    for one, content in ((patch, DIFF), (notes, b"# Notes\n")):
        await put_file(bus.bus, "code", one.object, in_pieces(content))
    changes = Changes(
        "1" * 40, f"agentbus/{task_id}", "2" * 40, commits=2, files=2, insertions=6, deletions=2, base_ref="main",
        log=(Commit("2" * 40, "Totals count how many there are of a thing"), Commit("3" * 40, "A test of two of one")),
    )  # fmt: skip
    task = decode_task(
        encode({"id": task_id, "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "task",
                "payload": {"content": "Round the total of a cart to cents, and test it"}})
    )  # fmt: skip
    extra = {"artifacts": [patch.to_json(), notes.to_json()], "changes": changes.to_json(), **_run_of(0.64, 210_000)}
    answer = "The total counts how many there are of a thing, and is rounded to cents.\n\nBoth tests pass."
    await settle(bus, task_id, answer, agent="code", task=task, extra=extra)


def _run_of(cost: float, tokens: int) -> dict[str, Json]:
    usage: dict[str, Json] = {"input_tokens": tokens, "cached_input_tokens": tokens // 2, "output_tokens": tokens // 40}
    run: dict[str, Json] = {
        "format": "claude", "kind": "claude", "version": "2.1.332", "model": "sonnet", "turns": 7, "cost_usd": cost,
        "session": "0b5c4a", "place": "0" * 16 + "-" + "1" * 8, "usage": usage,
    }  # fmt: skip
    return {"run": run}


def _ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()
