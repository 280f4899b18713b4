"""The three memory tasks of the RMT paper (arXiv 2304.11062, section 4) as one task: a document carries all of them.

What is hidden and asked is that of ``evals.tasks.memory``; here it is asked in words and answered in words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from evals.tasks.base import Question, Source
from evals.tasks.documents import Document, Insert
from evals.tasks.memory import PLACES, TASKS, MemoryTasks

ASK = " Question: {question} Answer with one word.\nAnswer:"  # the paper has no words around it: its models are trained


@dataclass(frozen=True)
class PaperTasks:
    """memorize, detect and reasoning in each document, asked for one of six places.

    Attributes:
        tasks: some of memorize, detect and reasoning, joined by "+".
        distractors: facts about other people, each at a random offset.
    """

    tasks: str = "+".join(TASKS)
    distractors: int = 2
    name: ClassVar[str] = "paper"
    chance: ClassVar[float] = 1 / len(PLACES)

    def settings(self) -> Mapping[str, Any]:
        """What is hidden."""
        return {"tasks": self.tasks, "distractors": self.distractors}

    def documents(self, source: Source, length: int, count: int, first: int = 0) -> Iterator[Document]:
        """``count`` documents of exactly ``length`` tokens from number ``first`` on.

        Raises ValueError on an unknown task, too many distractors, or a background that is shorter.
        """

        def tokenizer(text: str, add_special_tokens: bool) -> dict[str, Any]:
            return {"input_ids": source.encode(text)}

        maker = MemoryTasks(tokenizer, source.background, length, self.tasks.split("+"), self.distractors, source.seed)
        for document in maker.documents(count, first):
            yield Document(
                document.length,
                document.inserts,
                tuple(_asked(source, question, document.inserts) for question in document.questions),
                document.background,
                document.start,
                document.index,
            )


def _asked(source: Source, question: Any, inserts: tuple[Insert, ...]) -> Question:
    """The question in words: as it is for models that were trained to answer it, with a request for others."""
    place = PLACES[question.answer]
    said = question.text if source.bare else ASK.format(question=question.text)
    if question.task == "reasoning":  # a fact about rooms names the room that is asked for and the one in the middle
        needed = [i for i in inserts if i.text.startswith("The ") and place in i.text]
    else:
        needed = [i for i in inserts if i.text.startswith(f"{question.key} ")]
    evidence = tuple((i.offset, i.offset + len(i.ids)) for i in needed)
    return Question(
        question.task,
        question.text,
        source.encode(said),
        (place,),
        scorer="needle_place",  # one place, and no other beside it
        choices=PLACES,
        # A model that was trained to answer has learned the answer alone, not to stop behind it.
        max_tokens=max(len(source.encode(" " + name)) for name in PLACES) if source.bare else 8,
        evidence=evidence,
    )
