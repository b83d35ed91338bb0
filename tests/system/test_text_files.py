"""The check of `make check` for text files without an encoding finds each kind of call, and only those."""

import pytest

import text_files


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text()",
        "path.write_text(text)",
        "open(name)",
        'open(name, "w")',
        'path.open("a")',
        'path.open(mode="r")',
        "(folder / name).open()",
        'os.fdopen(number, "w")',
        'NamedTemporaryFile("w")',
        "subprocess.run(words, text=True)",
    ],
)
def test_a_call_without_an_encoding_is_reported(code: str) -> None:
    assert [line for line, _ in text_files.without_encoding(f"\n{code}\n")] == [2]


@pytest.mark.parametrize(
    "code",
    [
        'path.read_text("utf-8")',
        'path.read_text(encoding="utf-8")',
        'path.write_text(text, "utf-8")',
        'open(name, "rb")',
        'path.open("ab")',
        'path.open("w", encoding="utf-8")',
        "path.open(**more)",
        "os.open(name, os.O_RDWR)",
        "bus.open(retry_on_failed_connect=True)",
        "self.link.open()",
        "tempfile.TemporaryFile(dir=folder)",
        'subprocess.run(words, encoding="utf-8")',
        'TextContent(type="text", text=words)',
    ],
)
def test_any_other_call_is_accepted(code: str) -> None:
    assert list(text_files.without_encoding(code)) == []
