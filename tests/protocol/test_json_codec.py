"""JSON that is to be published: what a reader would get otherwise than it was written is refused."""

import pytest

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode, refuse_changes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 1}', "an object has the key 'a' twice"),
        ('[{"x": {"b": 1, "c": {}, "b": 3}}]', "an object has the key 'b' twice"),
        ('{"a": 1, "\\u0061": 2}', "an object has the key 'a' twice"),
        ('{"ключ": [], "ключ": {}}', "an object has the key 'ключ' twice"),
        ("0.1234567890123456789012345", "the number 0.1234567890123456789012345 would be read as 0.12345678901234568"),
        ('{"price": [9007199254740993.0]}', "would be read as 9007199254740992.0; send it as a string"),
        ("1e-400", "the number 1e-400 would be read as 0.0"),
        ("-1e400", "would be read as -inf"),
        (f"1e{'9' * 30}", "would be read as inf"),
    ],
)
def test_json_that_a_reader_would_change_is_refused_with_the_place(text: str, why: str):
    with pytest.raises(MessageError) as refused:
        refuse_changes(text.encode())
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}',
        "[0.1, 1.0, 1e2, 1E5, -0.0, 0.10, 1e23, 1.7976931348623157e308, 5e-324, 0.30000000000000004]",
        "[0, -0, 123456789012345678901234567890, 9007199254740993]",
        '"0.1234567890123456789012345"',
        '{"": 1, " ": 2}',
    ],
)
def test_json_that_every_reader_of_ours_keeps_is_not_refused(text: str):
    refuse_changes(text.encode())
    decode(text.encode())
