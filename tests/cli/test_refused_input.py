"""Input that is refused before anything is sent; run in this process, because none of it dials a bus."""

import pytest

from support.in_process import run_here

PUBLISH = ("task", "publish", "--to", "code", "--task-type", "t")


@pytest.mark.parametrize("content", ["", " ", "\n", "\t\r\n"], ids=repr)
@pytest.mark.parametrize("payload_fmt", ["text", "json"])
def test_an_empty_task_is_not_published(content: str, payload_fmt: str):
    ran = run_here(*PUBLISH, "--payload-fmt", payload_fmt, content)
    assert "the content is empty; nothing was published" in str(ran.error)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"a": 1, "a": 2}', "the content is ambiguous JSON: an object has the key 'a' twice"),
        ("[0.12345678901234567890]", "the content is JSON that would change: the number 0.12345678901234567890"),
        ("{nope", "the content is not JSON"),
    ],
)
def test_json_that_would_not_arrive_as_it_was_written_is_not_published(content: str, why: str):
    ran = run_here(*PUBLISH, "--payload-fmt", "json", content)
    assert str(ran.error).startswith(why)
    assert str(ran.error).endswith("leave out --payload-fmt json to send it as text")


@pytest.mark.parametrize(
    "args",
    [
        ("result", "get", "--full", "job", "--watch"),
        ("init", "--upgrade", "--renew-certificate"),
        ("init", "--renew-certificate", "--rewrite-accounts"),
    ],
    ids=" ".join,
)
def test_options_of_which_one_would_be_ignored_are_refused(args: tuple[str, ...]):
    ran = run_here(*args)
    assert ran.code == 2
    assert "exclude each other" in ran.err


@pytest.mark.parametrize("options", [("--approve", "--deny"), ("--deny", "--approve"), ()], ids=" ".join)
def test_an_answer_is_one_of_two(options: tuple[str, ...]):
    ran = run_here("task", "answer", "job", *options)
    assert ran.code == 2
    assert "--approve" in ran.err
    assert "--deny" in ran.err


@pytest.mark.parametrize("line", ["task list --limit x", "top --interval x", "up --port x", "status --recent x"])
def test_what_is_no_number_is_said_to_be_none(line: str) -> None:
    ran = run_here(*line.split())
    assert ran.code == 2
    assert "'x' is not a valid number." in ran.err
