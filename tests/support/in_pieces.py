"""Bytes as a file of an agent is written from: piece by piece."""

from collections.abc import AsyncGenerator


async def in_pieces(*data: bytes) -> AsyncGenerator[bytes]:
    """Yield each piece of the data."""
    for piece in data:
        yield piece
