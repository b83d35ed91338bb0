"""The fields of a task that answers a question: `answers`, with which task asked, and whose that is."""

from typing import Final

ANSWERS: Final = "answers"
"""The id of the task that asked."""
ANSWERS_OWNER: Final = "answers_owner"
"""Its owner, where that is not who answers."""
