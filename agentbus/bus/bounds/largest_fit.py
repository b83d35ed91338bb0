"""Makes a stream as large as the storage allows, where a smaller one serves as well."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentbus.errors import ApiError, StreamFullError

_Made = TypeVar("_Made")


async def largest_fit(send: Callable[[int], Awaitable[_Made]], size: int, *, least: int) -> _Made:
    """Make or change a stream with room for `size` bytes or, where there is less, for a half, a quarter and so on.

    Args:
        send: asks for the stream with room for so many bytes.

    Raises:
        ApiError, StreamFullError: it is refused with `least`, too.
    """
    while True:
        try:
            return await send(size)
        except (ApiError, StreamFullError):
            size //= 2
            if size < least:
                raise
