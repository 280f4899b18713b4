"""Several samples of one question: intervals and tests are over questions, not over samples."""

from __future__ import annotations

import numpy as np
import pytest

from evals import load_rows, paired, table, tally
from evals.cells import samples_of
from evals.page import collect, page
from evals.page.collect import Run
from evals.page.compare import compare, documents_of, pair
from evals.rows import Row, RowLog
from evals.stats import bootstrap, bootstrap_p, mcnemar, wilson, wilson_clustered


def rows(skills, samples=10, *, name="a", control="memory", seed=0, drawn=True):
    """Answers to a question of each document, right with its own probability; or to questions of their own."""
    rng = np.random.default_rng(seed)
    return [
        Row("humaneval", 64, control, d, s, f"d{d}", f"d{d}" if control == "memory" else "", (f"f{d}",), "code",
            float(rng.random() < skill), "exact", f"Write f{d}." + ("" if drawn else f" Way {s}."),
            detail={"verdict": name})
        for d, skill in enumerate(skills) for s in range(samples)
    ]  # fmt: skip


def test_samples_are_found_by_words_and_answer():
    drawn = rows([0.5, 1.0])
    assert [count for _, count in samples_of(drawn)] == [10, 10]
    assert samples_of(drawn)[1] == (10.0, 10)
    assert samples_of(rows([0.5, 1.0], drawn=False)) == samples_of(rows([0.5, 1.0], samples=1)) == ()
    labels = [Row("memorize", 64, "memory", 0, q, "d", "d", 1, 1) for q in range(5)]  # no words in old rows
    assert samples_of(labels) == ()
    assert samples_of([Row("t", 0, "memory", 0, q, "d", "", (), 2.5, 2.5, "value", "asked") for q in range(3)]) == ()
    assert (
        tally([Row("t", 0, "memory", 0, q, "d", "", (), 0.5, 0.5, "value", "asked") for q in range(3)])[0].samples == ()
    )


def test_interval_of_samples_that_agree_is_that_of_the_questions():
    skills = [1.0] * 12 + [0.0] * 28
    (cell,) = tally(rows(skills))
    assert (cell.n, cell.questions, cell.documents, cell.rate) == (400, 40, 40, 0.3)
    # All samples of a question alike, n are worth m - 1 independent ones (the variance is over m - 1).
    assert cell.interval == pytest.approx(wilson_clustered([10.0] * 12 + [0.0] * 28, [10] * 40))
    low, high = wilson(12, 40)
    assert cell.interval.low == pytest.approx(low, abs=0.003)
    assert cell.interval.high == pytest.approx(high, abs=0.003)
    (one,) = tally(rows(skills, samples=1))
    assert one.interval == (low, high)
    (all_wrong,) = tally(rows([0.0] * 40))
    assert all_wrong.interval == wilson(0, 40)
    (apart,) = tally(rows(skills, drawn=False))
    assert apart.interval == wilson(120, 400)


def test_independent_samples_are_worth_about_their_number_and_never_more():
    rng = np.random.default_rng(3)
    sums, counts = list(map(float, rng.binomial(10, 0.4, 200))), [10] * 200
    whole = wilson(int(sum(sums)), 2_000)
    width = wilson_clustered(sums, counts).high - wilson_clustered(sums, counts).low
    assert whole.high - whole.low <= width * (1 + 1e-12)
    assert width < 1.15 * (whole.high - whole.low)
    assert wilson_clustered([4.0] * 50, [10] * 50) == pytest.approx(wilson(200, 500))
    assert wilson_clustered([1.0], [4]) == pytest.approx(wilson_clustered([0.25], [1]))


def test_coverage_of_the_mean_over_questions():
    """Of 300 sets of questions with skills of their own, about 95% of intervals hold the mean skill, not 60%."""
    rng = np.random.default_rng(0)
    held = naive = 0
    for _ in range(300):
        skills = rng.beta(0.5, 1.0, 40)
        sums = [float(x) for x in rng.binomial(20, skills)]
        for interval, hit in ((wilson_clustered(sums, [20] * 40), "held"), (wilson(int(sum(sums)), 800), "naive")):
            inside = interval.low <= 1 / 3 <= interval.high
            held, naive = held + (hit == "held" and inside), naive + (hit == "naive" and inside)
    assert held / 300 > 0.91
    assert naive / 300 < 0.6


@pytest.mark.parametrize(
    ("sums", "counts"), [([], []), ([1.0], []), ([2.0], [1]), ([-1.0], [1]), ([0.0], [0])]
)  # fmt: skip
def test_counts_that_cannot_be_are_refused(sums, counts):
    with pytest.raises(ValueError, match="expected"):
        wilson_clustered(sums, counts)


def test_models_are_compared_over_documents():
    one, other = rows([0.9, 0.9, 0.1, 0.1, 0.5] * 4), rows([0.2, 0.9, 0.1, 0.1, 0.5] * 4, name="b", seed=1)
    pairs, same = pair(one, other)
    assert same
    assert len(pairs) == 200
    assert all((a.digest, a.question) == (b.digest, b.question) for a, b in pairs)
    (made,) = compare([Run("A", "A", tuple(one)), Run("B", "B", tuple(reversed(other)))])
    differences = [a.value - b.value for a, b in pairs]
    clusters = documents_of([a for a, _ in pairs])
    assert made.p_value == bootstrap_p(differences, clusters)
    assert made.interval == bootstrap(differences, clusters=clusters)
    assert made.only_first is made.only_second is None
    naive = mcnemar(sum(d > 0 for d in differences), sum(d < 0 for d in differences)).p_value
    assert made.p_value > 2 * naive
    # The same question once, or questions with other words: McNemar's, as before.
    (once,) = compare([Run("A", "A", tuple(rows([0.9] * 9, 1))), Run("B", "B", tuple(rows([0.1] * 9, 1, seed=1)))])
    assert once.only_first is not None
    apart = [Run(n, n, tuple(rows([p] * 9, drawn=False, seed=s))) for n, p, s in (("A", 0.9, 0), ("B", 0.1, 1))]
    assert compare(apart)[0].only_first is not None


def test_samples_of_a_question_are_one_pair():
    both = rows([0.9, 0.9, 0.1, 0.5] * 3) + rows([0.2, 0.9, 0.1, 0.5] * 3, control="zeroed", seed=1)
    sums = {c: np.array([t for t, _ in samples_of([r for r in both if r.control == c])]) for c in ("memory", "zeroed")}
    more = sums["memory"] - sums["zeroed"]
    (found,) = paired(both).values()
    assert found == mcnemar(int((more > 0).sum()), int((more < 0).sum()))
    apart = rows([0.9] * 9, drawn=False) + rows([0.1] * 9, control="zeroed", seed=1, drawn=False)
    assert paired(apart)["humaneval", 64].only_first > 9, "questions of their own are pairs of their own"


def test_tables_and_page_say_so(tmp_path):
    for name, skills in (("a", [0.9, 0.1] * 8), ("b", [0.5] * 16)):
        with RowLog(tmp_path / name / "rows.jsonl", name, {}) as log:
            for control in ("memory", "zeroed"):
                for row in rows(skills, control=control, seed=len(name) + ord(name)):
                    log.append(row)
    said = table(tally(load_rows(tmp_path / "a" / "rows.jsonl")))
    assert "humaneval, 64 tokens: 160 answers to 16 questions" in said
    assert "too narrow" not in said
    text = page([tmp_path / "a", tmp_path / "b"])
    assert "Each rate rests on 16 questions" in text
    assert "Some answers are samples of one question" in text
    assert "too narrow" not in text
    run = collect([tmp_path / "a"])[0]
    low, high = tally(row for row in run.rows if row.control == "memory")[0].interval
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in text
