"""Lists tasks for `agentbus task list`: searches on until there are enough, and prints what it has when interrupted."""

from typing import TYPE_CHECKING, Any

from agentbus.cli import lazy, output

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator
    from agentbus.tasks.listing.task_list import TaskList
    from agentbus.tasks.status import TaskStatus


class TaskSearch:
    """A list of tasks in the making.

    In a pipe each task is a line as soon as it is found; on a terminal all of them are a table at the end.
    """

    def __init__(self, bus: "Coordinator", limit: int, cursor: int | None) -> None:
        self._bus = bus
        self._limit = limit
        self._cursor = cursor
        self._tasks: list[TaskStatus] = []
        self._unreadable: list[str] = []
        self._began = False

    async def run(self, **filters: Any) -> None:
        """Search until there are enough tasks or no more, and say on standard error how far it is.

        The filters are those of `Coordinator.list_tasks`.

        Whatever ends it, also Ctrl-C and a lost bus, prints what was found and how to go on.
        """
        try:
            while self._add(
                await self._bus.list_tasks(
                    **filters,
                    limit=self._limit - len(self._tasks),
                    cursor=self._cursor,
                    with_results=False,
                )
            ):
                pass
        finally:
            if self._began:
                self._print()

    def _add(self, page: "TaskList") -> bool:
        """Take a page in; return whether the search has to go on."""
        self._began, self._cursor = True, page.cursor
        self._tasks += page.tasks
        self._unreadable += page.unreadable
        if not output.tabular():
            for status in page.tasks:
                output.json_line(status.to_json(with_result=False))
        if page.partial and page.reached is not None:
            output.remark(f"searched back to {page.reached:%Y-%m-%d %H:%M:%S} UTC; {page.left:,} entries are left")
        return page.partial

    def _print_table(self) -> None:
        owned = any(status.owner != self._bus.agent for status in self._tasks)
        lazy.task_rows.print_tasks(self._tasks, owned=owned)

    def _print(self) -> None:
        if output.tabular():
            self._print_table()
        for fault in self._unreadable:
            output.remark(f"warning: {fault}")
        if self._cursor is not None:
            output.remark(f"older tasks: --cursor {self._cursor}")
