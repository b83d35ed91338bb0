"""The lines that a command prints are found in the end of its output, which is kept anyway."""

from agentbus_worker.progress.printed_lines import PrintedLines


class Pipe:
    """An output of which the last 8 KiB are kept."""

    def __init__(self) -> None:
        self.data = b""

    def __call__(self) -> tuple[int, bytes]:
        return len(self.data), self.data[-8_192:]


def test_whole_lines_are_told_once_and_a_line_that_goes_on_is_waited_for():
    pipe = Pipe()
    lines = PrintedLines(pipe)
    assert lines.new() == ""
    pipe.data += b"one\ntwo\nthr"
    assert lines.new() == "one\ntwo"
    pipe.data += b"ee\n"
    assert lines.new() == "three"
    assert lines.new() == ""
    pipe.data += b"Password: "
    assert lines.new() == ""
    assert lines.new() == "Password: ".strip(), "it stands there: nothing more comes of it now"
    pipe.data += b"last"
    assert lines.new(at_end=True) == "last"
    assert lines.left_out == 0


def test_of_much_output_the_newest_whole_lines_are_told_and_the_rest_is_counted():
    pipe = Pipe()
    lines = PrintedLines(pipe)
    pipe.data = b"".join(b"line %d\n" % number for number in range(10_000))
    told = lines.new()
    assert told.startswith("line ")
    assert told.endswith("line 9999")
    assert lines.left_out == len(pipe.data) - len(told) - 1


def test_a_line_without_an_end_holds_nothing_up_and_is_counted():
    pipe = Pipe()
    lines = PrintedLines(pipe)
    for _ in range(3):
        pipe.data += b"x" * 5_000
        assert lines.new() == ""
    assert lines.new() == ""
    assert lines.left_out == 15_000
    pipe.data += b"\nnext\n"
    assert lines.new().strip() == "next"


def test_of_a_progress_bar_the_last_frame_is_told_without_its_colours():
    pipe = Pipe()
    lines = PrintedLines(pipe)
    pipe.data = b"".join(b"\r\x1b[32m%d %%\x1b[0m" % number for number in range(100)) + b"\r"
    assert lines.new() == "99 %"
    pipe.data += b"done\r\nafter\r\n"
    assert lines.new() == "done\nafter"
