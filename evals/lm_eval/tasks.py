"""Tasks of ``evals.tasks`` as tasks of lm-eval. Needs lm-eval.

A document is made when its request is built, and every question of it is one of lm-eval's docs. The text that lm-eval
sees carries the document's own tokens, so a model of ours reads the very document that ``evals.run`` would give it; to
any other model it is a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task as HarnessBase
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from evals.lm_eval.names import PREFIX
from evals.lm_eval.texts import Context, Continuation
from evals.scorers import score
from evals.tasks.base import Question, Source
from evals.tasks.base import Task as OurTask
from evals.tasks.documents import Document
from evals.tasks.registry import create, names

DOCUMENTS = 100  # of a task, where --metadata documents=N says nothing
# Scorers of other harnesses that are reported beside the benchmark's own.
BESIDE = {"babilong": ("babilong_loose",)}
_SETTINGS = ("documents",)


class HarnessTask(HarnessBase):  # type: ignore[misc]  # lm-eval has no types
    """One of our tasks at one length.

    Args:
        config: ``task`` (its name in lm-eval), ``spec`` (a name of the registry, or a task), ``length`` (tokens),
            ``source`` (a function of the metadata that makes the ``Source``), ``metadata`` (``documents``: how many;
            all of it goes to ``source``).

    Raises:
        ValueError: an unknown task, a length too small, a background too short, or a task of several measures a
            question.
    """

    VERSION = 1

    def __init__(self, config: Mapping[str, Any]) -> None:
        about = dict(config.get("metadata") or {})
        self.length = int(config["length"])
        self.count = int(about.get("documents", DOCUMENTS))
        spec = config["spec"]
        self.task: OurTask = create(spec) if isinstance(spec, str) else spec
        self.source: Source = config["source"](**{k: v for k, v in about.items() if k not in _SETTINGS})
        self._documents: list[Document] = []
        self._making = self.task.documents(self.source, self.length, self.count)
        self._texts: tuple[int, str] = (-1, "")
        self._metrics: dict[str, bool] = {}
        # Not by the base's constructor, which downloads, and makes a configuration that it warns about.
        self._instances = None
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        described = {"documents": self.count, "seed": self.source.seed, "text": self.source.digest}
        self._config = TaskConfig(
            task=config["task"],
            output_type=self._output_type(),
            num_fewshot=0,
            generation_kwargs={"until": []} if self._output_type() == "generate_until" else None,
            metadata=described | {"settings": dict(self.task.settings()), "version": self.VERSION},
        )
        self.OUTPUT_TYPE = self._config.output_type

    def _output_type(self) -> str:
        ways = {"generate": "generate_until", "choose": "multiple_choice", "nats": "loglikelihood"}
        question = self.document(0).questions[0]
        if question.method not in ways or question.sampling is not None:
            what = "drawn answers" if question.sampling is not None else f"the method {question.method!r}"
            raise ValueError(
                f"{self.task.name}: expected one greedy text, choice or likelihood a question, as lm-eval asks them, "
                f"got {what}; use `rmt eval run`"
            )
        return ways[question.method]

    def has_training_docs(self) -> bool:
        """No."""
        return False

    def has_validation_docs(self) -> bool:
        """No."""
        return False

    def has_test_docs(self) -> bool:
        """Yes."""
        return True

    def document(self, index: int) -> Document:
        """The document of this number."""
        while len(self._documents) <= index:
            self._documents.append(next(self._making))  # type: ignore[arg-type]  # of evals.tasks.documents
        return self._documents[index]

    @property
    def eval_docs(self) -> Docs:
        """Every question of every document, as a plain dictionary each."""
        return Docs(self)

    def test_docs(self) -> Docs:
        """The same."""
        return Docs(self)

    def docs(self) -> Iterator[dict[str, Any]]:
        """The questions, drawn as they are asked for."""
        for index in range(self.count):
            for place, question in enumerate(self.document(index).questions):
                yield {
                    "task": question.task,
                    "length": self.length,
                    "document": index,
                    "place": place,
                    "question": question.text,
                    "answers": list(question.answers),
                    "choices": list(question.choices),
                    "method": question.method,
                    "scorer": question.scorer,
                    "tokens": 0 if question.continuation is None else len(question.continuation),
                }

    def _question(self, doc: Mapping[str, Any]) -> Question:
        question: Question = self.document(doc["document"]).questions[doc["place"]]
        return question

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The question in words."""
        return str(doc["question"])

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """The right answers."""
        return ", ".join(doc["answers"])

    def doc_to_prefix(self, doc: Mapping[str, Any]) -> None:
        """None: what an answer begins with is part of the question."""

    def fewshot_context(self, doc: Mapping[str, Any], num_fewshot: int = 0, **settings: Any) -> str:
        """Document and question. Raises ValueError where examples are asked for: prompts have the benchmark's own."""
        if num_fewshot:
            raise ValueError(
                f"num_fewshot: expected 0, as prompts have their examples, got {num_fewshot}; leave it out"
            )
        index, question = doc["document"], self._question(doc)
        document = self.document(index)
        if self._texts[0] != index:  # one text for all questions of a document
            self._texts = index, self.source.decode(document.tokens(0, document.length))
        asked = self.source.decode(question.ids)
        apart = " " if self._texts[1] and not asked[:1].isspace() else ""
        text = f"{self._texts[1]}{apart}{asked}"
        template = settings.get("chat_template") if settings.get("apply_chat_template") else None
        instruction = settings.get("system_instruction")
        if template is None and not instruction:
            return Context.of(text, document, question.ids, asked)
        if template is None:
            return f"{instruction}\n\n{text}"
        system = [{"role": "system", "content": instruction}] if instruction else []
        return str(template([*system, {"role": "user", "content": text}]))

    def construct_requests(self, doc: Mapping[str, Any], ctx: str, **settings: Any) -> list[Instance]:
        """What is asked of the model: a text, or the likelihood of each choice or of the continuation."""
        question = self._question(doc)
        about = {"doc": doc, "metadata": settings.get("metadata", (None, None, None))}
        if question.method == "generate":
            chosen = {"max_gen_toks": question.max_tokens, "until": list(question.stop), "do_sample": False}
            given = {k: v for k, v in (self._config.generation_kwargs or {}).items() if k != "until" or v}
            return [Instance("generate_until", arguments=(ctx, chosen | given), idx=0, **about)]
        if question.method == "choose":
            said = [(ctx, " " + choice) for choice in question.choices]
        else:
            assert question.continuation is not None
            said = [(ctx, Continuation.of(self.source.decode(question.continuation), question.continuation))]
        return [Instance("loglikelihood", arguments=each, idx=place, **about) for place, each in enumerate(said)]

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """The score of an answer by its task's scorer, and by those reported beside it."""
        if doc["method"] == "generate":
            answered: Any = results[0]
        elif doc["method"] == "choose":
            answered = doc["choices"][int(np.argmax([nats for nats, _ in results]))]
        else:
            answered = -results[0][0] / doc["tokens"]
        scorers = (doc["scorer"], *BESIDE.get(doc["scorer"].partition(":")[0], ()))
        part = "" if doc["task"] == self.task.name else f"{doc['task']}_"
        values = {}
        for scorer in scorers:
            name = part + ("nats" if scorer == "value" else scorer.partition(":")[0])
            self._metrics[name] = scorer != "value"
            values[name] = score(scorer, answered, doc["answers"], doc["question"])
        return values

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """The mean, of every metric there was."""
        return dict.fromkeys(self._metrics, mean)

    def higher_is_better(self) -> dict[str, bool]:
        """True but for nats a token."""
        return dict(self._metrics)


class Docs:
    """The questions of a task as lm-eval goes over them: drawn one by one, and counted without making all documents.

    Its length takes every document to ask as much as the first.
    """

    def __init__(self, task: HarnessTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.task.docs()

    def __len__(self) -> int:
        return self.task.count * len(self.task.document(0).questions)


def tasks(
    chosen: Sequence[str | OurTask], source: Source, *, lengths: Sequence[int], n: int = DOCUMENTS
) -> list[HarnessTask]:
    """Our tasks for ``lm_eval.simple_evaluate(tasks=...)``, one at each length.

    Args:
        chosen: names or groups of the registry (settings behind a colon), or tasks.
        source: tokenizer, background and seed.
        lengths: tokens of the documents.
        n: documents of each.

    Raises:
        ValueError: an unknown task or setting, a length too small, or a background too short.
    """
    specs: list[str | OurTask] = []
    for task in chosen:
        specs += names(task) if isinstance(task, str) else [task]
    return [
        HarnessTask(
            {
                "task": f"{PREFIX}{(spec if isinstance(spec, str) else spec.name)}_{length}",
                "spec": spec,
                "length": length,
                "source": lambda **_: source,
                "metadata": {"documents": n},
            }
        )
        for length in lengths
        for spec in specs
    ]
