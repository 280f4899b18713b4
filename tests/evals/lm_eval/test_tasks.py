"""Our tasks in lm-eval: the same documents, questions and scores as in a run of ours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from evals import load_rows, run
from evals.lm_eval.model import RecurrentLM
from evals.lm_eval.tasks import HarnessTask, tasks
from evals.model import Sampling
from tests.evals.words import Codes, Remembers, Words, source

LENGTH, DOCUMENTS = 400, 6


@dataclass(frozen=True)
class Nats(Codes):
    """The same documents; how likely the code is."""

    name: str = "nats"
    method: str = "nats"

    def documents(self, source, length, count, first=0):
        for document in super().documents(source, length, count, first):
            (asked,) = document.questions
            ids = source.encode(asked.answers[0])
            yield replace(document, questions=(replace(asked, continuation=ids, scorer="value"),))


@dataclass(frozen=True)
class Both(Codes):
    """Two questions a document, under names of their own."""

    name: str = "both"

    def documents(self, source, length, count, first=0):
        for document in super().documents(source, length, count, first):
            (asked,) = document.questions
            wrong = replace(asked, task="second", answers=("none",))
            yield replace(document, questions=(replace(asked, task="first"), wrong))


def harness(lm, **settings):
    """lm-eval, without looking through its own fourteen thousand task files, and without setting seeds."""
    seeds = {"random_seed": None, "numpy_random_seed": None, "torch_random_seed": None}
    return simple_evaluate(lm, bootstrap_iters=0, task_manager=TaskManager(include_defaults=False), **seeds, **settings)


def evaluated(model, chosen, words, **settings):
    made = tasks([chosen], source(words), lengths=[LENGTH], n=DOCUMENTS)
    out = harness(RecurrentLM(model), tasks=made, **settings)
    return out["results"][f"rmt_{chosen.name}_{LENGTH}"], out["samples"][f"rmt_{chosen.name}_{LENGTH}"]


@pytest.mark.parametrize("method", ["generate", "choose"])
@pytest.mark.parametrize("window", [None, 100])
def test_scores_are_those_of_our_own_runner(method, window, tmp_path):
    words = Words()
    model = Remembers(words, window)
    results, samples = evaluated(model, Codes(method=method), words)
    run(model, [Codes(method=method)], source(words), lengths=[LENGTH], n=DOCUMENTS, folder=tmp_path)
    rows = [row for row in load_rows(tmp_path / "rows.jsonl") if row.control == "memory"]
    assert [sample["exact"] for sample in samples] == [row.value for row in rows]
    assert [sample["doc"]["answers"] for sample in samples] == [list(row.expected) for row in rows]
    assert results["exact,none"] == sum(row.value for row in rows) / len(rows)
    assert (results["exact,none"] == 1.0) == (window is None)  # the model that forgets shows that it can fail


def test_a_model_reads_the_documents_own_tokens():
    words = Words()
    model = Remembers(words)
    read = []
    model.read = lambda documents: (
        read.extend(d.tokens(0, d.length).tolist() for d in documents) or Remembers.read(model, documents)
    )
    evaluated(model, Codes(), words)
    wanted = [d.tokens().tolist() for d in Codes().documents(source(words), LENGTH, DOCUMENTS)]
    assert sorted(read) == sorted(wanted)


def test_a_likelihood_is_nats_a_token_and_less_is_better():
    words = Words()
    results, _ = evaluated(Remembers(words), Nats(), words)
    assert results["nats,none"] == 0.0
    results, _ = evaluated(Remembers(words, 1), Nats(), words)
    assert results["nats,none"] == 1.0
    task = tasks([Nats()], source(words), lengths=[LENGTH], n=1)[0]
    (doc,) = task.docs()
    task.process_results(doc, [(-3.0, False)])
    assert task.higher_is_better() == {"nats": False}


def test_questions_of_several_kinds_are_counted_apart():
    words = Words()
    results, samples = evaluated(Remembers(words), Both(), words)
    assert (results["first_exact,none"], results["second_exact,none"]) == (1.0, 0.0)
    assert len(samples) == 2 * DOCUMENTS


def test_lm_evals_own_loose_score_stands_beside_the_benchmarks():
    words = Words()
    (task,) = tasks(["qa1"], source(words, bare=True), lengths=[LENGTH], n=1)
    (doc,) = task.docs()
    right = doc["answers"][0]
    assert task.process_results(doc, [right]) == {"babilong": 1.0, "babilong_loose": 1.0}
    rooms = "bathroom bedroom garden hallway kitchen office"
    assert task.process_results(doc, [rooms]) == {"babilong": 0.0, "babilong_loose": 1.0}


def test_a_limit_makes_no_more_documents_than_it_takes():
    words = Words()
    task = tasks([Codes()], source(words), lengths=[LENGTH], n=10_000)[0]
    made = harness(RecurrentLM(Remembers(words)), tasks=[task], limit=2)
    assert made["n-samples"][f"rmt_codes_{LENGTH}"]["effective"] == 2
    assert len(task._documents) <= 3


def test_another_model_gets_document_and_question_as_text():
    words = Words()
    (task,) = tasks([Codes()], source(words), lengths=[LENGTH], n=1)
    (doc,) = task.docs()
    context = task.fewshot_context(doc)
    (document,) = Codes().documents(source(words), LENGTH, 1)
    assert context == words.decode(document.tokens()) + " Which code?"
    chat = task.fewshot_context(doc, apply_chat_template=True, chat_template=lambda turns: f"<{turns[0]['content']}>")
    assert chat == f"<{context}>"
    assert type(chat) is str
    assert task.fewshot_context(doc, system_instruction="Be brief.") == f"Be brief.\n\n{context}"
    with pytest.raises(ValueError, match="num_fewshot: expected 0"):
        task.fewshot_context(doc, num_fewshot=2)


def test_generation_may_be_set_from_the_command():
    words = Words()
    (task,) = tasks([Codes()], source(words), lengths=[LENGTH], n=1)
    (doc,) = task.docs()
    (plain,) = task.construct_requests(doc, "c")
    assert plain.arguments == ("c", {"max_gen_toks": 16, "until": ["\n"], "do_sample": False})
    task.set_config("generation_kwargs", {"max_gen_toks": 3}, update=True)
    (less,) = task.construct_requests(doc, "c")
    assert less.arguments[1]["max_gen_toks"] == 3


def test_too_short_a_text_is_refused_when_the_task_is_made():
    words = Words()
    with pytest.raises(ValueError, match="length"):
        tasks([Codes()], source(words), lengths=[1], n=1)
    with pytest.raises(ValueError, match="task: expected one of"):
        tasks(["nothing"], source(words), lengths=[LENGTH])


@pytest.mark.parametrize(("change", "said"), [({"method": "measure"}, "'measure'"), ({"drawn": True}, "drawn answers")])
def test_what_lm_eval_does_not_ask_is_refused(change, said):
    @dataclass(frozen=True)
    class Other(Codes):
        def documents(self, source, length, count, first=0):
            drawn = {"sampling": Sampling(1.0)} if "drawn" in change else change
            for document in super().documents(source, length, count, first):
                (asked,) = document.questions
                yield replace(document, questions=(replace(asked, **drawn),))

    with pytest.raises(ValueError, match=f"got .*{said}.*rmt eval run"):
        tasks([Other()], source(Words()), lengths=[LENGTH], n=1)


def test_metadata_reaches_the_source():
    words, given = Words(), {}

    def made(**about):
        given.update(about)
        return source(words, seed=about["seed"])

    config = {"task": "t", "spec": Codes(), "length": LENGTH, "source": made}
    task = HarnessTask(config | {"metadata": {"documents": 3, "seed": 5, "pretrained": "x"}})
    assert given == {"seed": 5, "pretrained": "x"}
    assert len(task.eval_docs) == 3
    assert task.dump_config()["metadata"]["seed"] == 5


def test_where_nothing_is_read_the_prompt_stands_alone():
    words = Words()
    (made,) = tasks(["multiplication"], source(words, 600), lengths=[0], n=1)
    (doc,) = made.docs()
    assert made.fewshot_context(doc) == words.decode(made.document(0).questions[0].ids)
