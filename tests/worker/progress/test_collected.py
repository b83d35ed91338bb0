"""Events wait in bounded memory until they are told, and what an agent does goes before what it says."""

from agentbus.protocol.json_codec import encode
from agentbus.protocol.progress.events import MAX_TEXT_CHARS, RunEvent
from agentbus_worker.formats.events import Notice, Retry, Text, Tool, ToolEnd
from agentbus_worker.progress.collected import Collected


def told(collected: Collected, max_bytes: int = 3_600) -> tuple[list[RunEvent], int, int]:
    return collected.take(max_bytes, lambda text: text)


def collected() -> Collected:
    return Collected(with_words=True)


def test_events_are_told_in_their_order_and_once():
    kept = collected()
    for number, event in enumerate((Text("hello "), Text("there"), Tool("Bash", "ls"), ToolEnd("Bash", True, "a b"))):
        kept.add(event, number)
    events, before, left_out = told(kept)
    assert [(one.kind, one.text) for one in events] == [("text", "hello there"), ("tool", "ls"), ("tool_end", "a b")]
    assert (before, left_out, kept.waiting) == (0, 0, False)
    kept.add(Text("more"), 9)
    events, before, left_out = told(kept)
    assert ([one.text for one in events], before, left_out) == (["more"], 3, 0)


def test_a_flood_of_texts_pushes_out_no_tool_and_is_counted():
    kept = collected()
    kept.add(Tool("Bash", "make"), 0)
    for number in range(2_000):
        kept.add(Text(f"{number} {'x' * 5_000}"), 1)
        kept.add(Notice("y" * 5_000), 1)
    events, before, left_out = told(kept)
    assert events[0].kind == "tool"
    assert len(encode([one.to_json() for one in events])) <= 3_600
    assert before + len(events) + left_out == kept.seen == 4_001


def test_a_text_that_does_not_fit_is_cut_whatever_its_characters_take():
    kept = collected()
    kept.add(Text("\x00" * 100_000), 0)
    [event], _, left_out = told(kept, 600)
    assert event.text.endswith("…")
    assert len(encode(event.to_json())) <= 600
    assert left_out == 0
    kept.add(Text("é" * 100_000), 0)
    [event], _, _ = told(kept, 100_000)
    assert len(event.text) <= MAX_TEXT_CHARS


def test_halves_of_characters_can_be_told():
    kept = collected()
    kept.add(Tool("\ud83d", "\udc00"), 0)
    [event], _, _ = told(kept)
    encode(event.to_json())


def test_what_is_said_is_not_kept_where_only_tools_are_told():
    kept = Collected(with_words=False)
    for event in (Text("secret plans"), Notice("a notice"), Retry("429", 1, 10), Tool("Bash", "ls")):
        kept.add(event, 0)
    assert [one.kind for one in told(kept)[0]] == ["retry", "tool"]
