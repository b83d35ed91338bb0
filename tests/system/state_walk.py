"""Walks all states that can be reached from one, breadth first. The explorers say what states and steps there are."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


class Walk(Generic[S]):
    """A walk over all states. `at` is the one that it has come to."""

    def __init__(self, start: S) -> None:
        self.at = start
        self._came_from: dict[S, tuple[S, str] | None] = {start: None}
        self._before: dict[S, list[S]] = {}

    def __len__(self) -> int:
        """How many states were found so far."""
        return len(self._came_from)

    def states(self, steps: Callable[[S], Iterable[tuple[str, S]]]) -> Iterator[S]:
        """Yield each state once, before its steps are taken: what each of them does, and the state that follows."""
        frontier, came_from, before = deque([self.at]), self._came_from, self._before
        while frontier:
            self.at = state = frontier.popleft()
            yield state
            for label, following in steps(state):
                before.setdefault(following, []).append(state)
                if following not in came_from:
                    came_from[following] = (state, label)
                    frontier.append(following)

    def path(self, state: S) -> str:
        """A shortest way to a state, a line for each step."""
        steps: list[str] = []
        step = self._came_from[state]
        while step is not None:
            steps.append(step[1])
            step = self._came_from[step[0]]
        return "\n".join(reversed(steps))

    def without_way_to(self, goals: Iterable[S]) -> S | None:
        """The first state from which no steps lead to a goal, once the walk is whole; None if there is none."""
        fine = set(goals)
        frontier = deque(fine)
        while frontier:
            for state in self._before.get(frontier.popleft(), ()):
                if state not in fine:
                    fine.add(state)
                    frontier.append(state)
        return next((state for state in self._came_from if state not in fine), None)
