"""agentbus with a clock that can be set: `odd_clock.py FILE ARGS…` is `agentbus ARGS…`.

The file holds the seconds by which the clock of this process is wrong, and may change while it runs.
"""

import sys
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Self

from agentbus.cli import main
from agentbus.protocol import ids, timestamps

_TRUE_TIME = time.time


def odd_time() -> float:
    return _TRUE_TIME() + float(Path(OFFSET).read_text(encoding="utf-8"))


class OddDatetime(datetime):
    """`datetime` by the same clock."""

    @classmethod
    def now(cls, tz: tzinfo | None = UTC) -> Self:
        return cls.fromtimestamp(odd_time(), tz)


if __name__ == "__main__":
    OFFSET = sys.argv.pop(1)
    time.time = odd_time
    ids.datetime = timestamps.datetime = OddDatetime
    main()
