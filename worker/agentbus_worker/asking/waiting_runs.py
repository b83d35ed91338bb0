"""Bounds how many runs of a worker may wait for a person at once: each of them keeps its slot."""

from collections.abc import Callable


class WaitingRuns:
    """The runs that have an open question.

    Attributes:
        stopping: whether the worker stops, and no run may wait any more.
        questions: how many are open, of all runs.
    """

    def __init__(self) -> None:
        self._runs: dict[object, Callable[[], None]] = {}
        self.stopping = False
        self.questions = 0

    def enter(self, run: object, on_stop: Callable[[], None], most: int) -> bool:
        """Note that a run waits; returns False if there are as many as there may be.

        `on_stop` is called when the worker stops meanwhile, or at once if it does so already.
        """
        if self.stopping:
            on_stop()
            return True
        if run not in self._runs and len(self._runs) >= most:
            return False
        self._runs[run] = on_stop
        return True

    def leave(self, run: object) -> None:
        """Note that a run waits no more."""
        self._runs.pop(run, None)

    def stop(self) -> None:
        """End the runs that wait: a person may take longer than the worker has, and may answer the next run as well."""
        self.stopping = True
        for on_stop in tuple(self._runs.values()):
            on_stop()
