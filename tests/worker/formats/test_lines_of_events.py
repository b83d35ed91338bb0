"""A stream is split into lines in bounded memory."""

from agentbus_worker.formats.lines import Lines


def test_lines_are_whole_however_the_stream_is_cut() -> None:
    data = b'{"a":1}\n\n{"b":2}\r\nrest'
    for size in range(1, len(data) + 1):
        lines = Lines()
        found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert (found, lines.rest()) == ([b'{"a":1}', b"", b'{"b":2}\r'], b"rest")


def test_a_line_that_is_too_long_is_passed_over_and_the_next_one_read() -> None:
    lines = Lines(max_bytes=1_000)
    found = [line for chunk in [b"x" * 400] * 25_000 for line in lines.feed(chunk)]
    assert (found, lines.rest(), lines.skipped) == ([], b"", 1)
    assert list(lines.feed(b"the end of it\nnext\nand")) == [b"next"]
    assert lines.rest() == b"and"
