"""The file of named tokens: what it may say, and what of it is never shown."""

from pathlib import Path

import pytest

from agentbus.config import mcp_tokens
from agentbus.config.mcp_tokens import hash_of, named_token, new_token, read_tokens, tokens_text
from agentbus.errors import ConfigError
from support.documentation import marked

HASH = hash_of("a token")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mcp-tokens.toml"
    path.touch(mode=0o600)
    return path


def test_what_is_written_is_read(file: Path) -> None:
    tokens = {name: named_token(name, new_token(), file.parent / f"{name}.toml") for name in ("bob", "alice", "a-1_b")}
    file.write_text(tokens_text(tokens), encoding="utf-8")
    assert read_tokens(file) == tokens
    file.write_text(tokens_text({}), encoding="utf-8")
    assert read_tokens(file) == {}


def test_the_file_of_the_documentation_is_read(file: Path) -> None:
    [block] = marked("a file of named tokens")
    file.write_text(block.text.replace("…", HASH), encoding="utf-8")
    assert read_tokens(file)["alice"].coordinator == file.parent / "alice" / "coordinator.toml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "tokens: is missing"),
        ("tokens = 3", "tokens: "),
        ("[tokens.alice]", "tokens.alice.sha256: is missing"),
        (f'[tokens.alice]\nsha256 = "{HASH}"', "tokens.alice.coordinator: is missing"),
        ('[tokens.alice]\nsha256 = "secret"\ncoordinator = "a"', "tokens.alice.sha256: "),
        (f'[tokens.alice]\nsha256 = "{HASH.upper()}"\ncoordinator = "a"', "tokens.alice.sha256: "),
        (f'[tokens.alice]\nsha256 = "{HASH}"\ncoordinator = "a"\ntoken = "secret"', "tokens.alice.token: Extra"),
        (f'[tokens."a b"]\nsha256 = "{HASH}"\ncoordinator = "a"', "String should match"),
        (
            "".join(f'[tokens.{name}]\nsha256 = "{HASH}"\ncoordinator = "a"\n' for name in ("alice", "bob")),
            "two names have the same token",
        ),
        ("[tokens", "is not valid TOML"),
        ('tokens = "secret', "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(text: str, said: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_tokens(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert HASH not in str(caught.value)


@pytest.mark.posix("modes of files")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_of_others_is_refused(mode: int, file: Path) -> None:
    file.write_text(tokens_text({}), encoding="utf-8")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=r"other users can read or change .* chmod 600"):
        read_tokens(file)


@pytest.mark.parametrize("name", ["", "Alice", "a b", "a.b", "-a", "ä", "a\n", "a" * 64])
def test_a_name_that_cannot_stand_in_the_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a token"):
        named_token(name, new_token(), Path("a.toml"))


def test_neither_token_nor_hash_shows_in_a_repr() -> None:
    token = new_token()
    assert token not in repr(named_token("alice", token, Path("a.toml")))
    assert mcp_tokens.hash_of(token) not in repr(named_token("alice", token, Path("a.toml")))
