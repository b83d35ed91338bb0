"""How a question changes the ledger entry of its task, in pure functions: each change is made by compare-and-set.

A change is applied to the entry as it is now, and once more where another party was first, or where the answer of the
bus was lost: then to an entry that has it.
"""

from agentbus.protocol.ledger_entry import Entry
from agentbus.protocol.questions.question import Answer, Question
from agentbus.protocol.questions.question_ids import part_of
from agentbus.protocol.questions.questions_of_entries import (
    question_named,
    questions_of,
    with_answer,
    with_given,
    with_question,
)


class Entering:
    """Enters a question into the ledger, or takes the answer to one that an earlier run has asked for the same.

    Attributes:
        earlier: that answer.
        full: whether there is no room for the question.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self.earlier: Answer | None = None
        self.full = False

    def change(self, entry: Entry) -> Entry:
        """Return the entry after that; called again for what another party has written meanwhile."""
        asked = self._question
        self.earlier, self.full = None, False
        if (known := question_named(entry, part_of(asked))) is not None:  # the answer of the bus was lost
            self.earlier = known.answer if known.given is not None else None
            return entry
        for one in questions_of(entry):
            if one.nonce != asked.nonce and one.answer is not None and one.given is None and one.asks_the_same(asked):
                self.earlier = one.answer
                entry = with_given(entry, one, asked.nonce)
                # The question itself is there as well: so it is known later which one of this run has got the answer.
                asked = asked.model_copy(update={"answer": one.answer, "given": asked.nonce})
                break
        entered = with_question(entry, asked)
        self.full = entered is None
        return entry if entered is None else entered


class Closing:
    """Notes in the ledger to whose agent an answer is given.

    Args:
        denial: what is answered if nothing is answered yet.

    Attributes:
        answer: the answer that counts; None if there is none yet.
    """

    def __init__(self, question: Question, denial: Answer | None) -> None:
        self._question = question
        self._denial = denial
        self.answer: Answer | None = None

    def change(self, entry: Entry) -> Entry:
        """Return the entry after that; called again for what another party has written meanwhile."""
        question, denial = question_named(entry, part_of(self._question)), self._denial
        if question is None:  # another party has written over it, or the ledger was made anew
            self.answer = denial
            return entry
        if question.answer is not None:
            self.answer = question.answer
            return with_given(entry, question, question.nonce)
        self.answer = denial
        return entry if denial is None else with_answer(entry, question, denial, given=question.nonce)


def answer_in(entry: Entry, question: Question) -> Answer | None:
    """Return the answer to a question; None while there is none."""
    found = question_named(entry, part_of(question))
    return None if found is None else found.answer
