"""Characters in bytes that need not be UTF-8: the same as Python's decoder makes, for all that can go wrong."""

from hypothesis import given
from hypothesis import strategies as st

from agentbus_mcp.operations.characters import CHARACTER, LOOK_BACK, first_start, last_start, size_of, text_of

EDGES = bytes.fromhex("41 7f 80 8f 90 9f a0 bb bd bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")
BYTES = st.lists(st.sampled_from(EDGES), max_size=12).map(bytes) | st.binary(max_size=40)


@given(BYTES)
def test_a_character_is_what_becomes_one_in_the_text(data: bytes) -> None:
    characters = [found[0] for found in CHARACTER.finditer(data)]
    assert b"".join(characters) == data
    assert [text_of(character) for character in characters] == list(text_of(data))


@given(BYTES, st.data())
def test_where_characters_begin_is_known_from_three_bytes_before(data: bytes, draw: st.DataObject) -> None:
    place = draw.draw(st.integers(0, len(data)))
    starts = [found.start() for found in CHARACTER.finditer(data)]
    seen_from = max(0, place - LOOK_BACK)
    start = seen_from + first_start(data[seen_from:], place - seen_from)
    assert start == next((one for one in starts if one >= place), len(data))
    assert text_of(data[:start]) + text_of(data[start:]) == text_of(data)
    if data:
        assert last_start(data) == starts[-1]


@given(BYTES, st.data())
def test_the_size_of_characters_is_that_of_their_bytes(data: bytes, draw: st.DataObject) -> None:
    count = draw.draw(st.integers(0, len(text_of(data))))
    size = size_of(data, count)
    assert text_of(data[:size]) == text_of(data)[:count]
    assert size_of(data, len(data) + 1) == len(data)
