"""Names of files of another machine: which of them are taken, and which could be more than a file in one folder."""

import pytest

from agentbus.errors import MessageError
from agentbus.protocol.work.file_names import check_together, name_fault


@pytest.mark.parametrize(
    "name",
    ["a", "report.txt", "out/plot 1.png", "übersicht.md", "日本.txt", ".gitignore", "x.git", "git1", "a" * 200],
)
def test_a_name_of_a_file_in_one_folder_is_taken(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/../b", "a/./b", "a//b", "/etc/passwd", "a/", "C:/x", "C:x", "\\\\host\\x", "a\\b"),
        *("a\nb", "a\x00b", "a\x1b[2J", "a\u202eb", "a\u200bb", "\ud800", "a\tb"),
        *(".git", ".git/config", "x/.GIT/hooks/pre-commit", ".\uff27\uff29\uff34/x", "GIT~1/config", ".git ", ".git."),
        *("con", "NUL.txt", "aux", "Com1.log", "lpt¹", "a:stream", "a?", "a*", 'a"', "a|b", "<a>"),
        *("-rf", "~root", " a", "a ", "a.", "x" * 201, "/".join("abcdefghijklmnopq"), "ä" * 300, "e\u0301"),
    ],
)
def test_a_name_that_could_be_more_is_refused_with_the_reason(name: str) -> None:
    assert name_fault(name)


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "A"), ("Straße", "STRASSE"), ("a", "a/b"), ("a/b", "A"), ("a/x", "A/y"), ("ﬁ", "fi")]
)
def test_names_that_collide_on_some_system_are_refused_together(names: tuple[str, ...]) -> None:
    assert not any(name_fault(name) for name in names)
    with pytest.raises(MessageError, match="cannot stand in one folder"):
        check_together(names)


def test_names_that_do_not_collide_are_taken_together() -> None:
    check_together(["a", "b/a", "b/c/a", "b/c/d", "ab"])
