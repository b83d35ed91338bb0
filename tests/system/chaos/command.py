"""The program that the workers of an agent start, which can vanish and come back, as during an update."""

import asyncio
import shutil
import time
from math import inf
from pathlib import Path


class Program:
    """`env` under a path of its own: once started it needs its file no more, as a script would."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "env"
        self._times_away: list[tuple[float, float]] = []
        self._one_at_a_time = asyncio.Lock()
        found = shutil.which("env")
        assert found is not None, "POSIX has it"
        self.path.symlink_to(found)

    async def vanish(self, length_s: float) -> None:
        """Rename it away, and back after a while."""
        async with self._one_at_a_time:
            began, away = time.time(), self.path.with_name("away")
            self.path.rename(away)
            self._times_away.append((began, inf))
            try:
                await asyncio.sleep(length_s)
            finally:
                away.rename(self.path)
                self._times_away[-1] = (began, time.time())

    def was_away(self, since: float) -> bool:
        """Whether it was missing at any time since then."""
        return any(ended > since for _, ended in self._times_away)
