"""Words as published, and back; a second solver from the words alone agrees on every label."""

from __future__ import annotations

import pytest

from evals.tasks.corr2cause.classes import classes
from evals.tasks.corr2cause.graphs import pairs
from evals.tasks.corr2cause.relations import RELATIONS
from evals.tasks.corr2cause.solve import verdict, verdicts
from evals.tasks.corr2cause.words import hypothesis, letters, premise, read_hypothesis, read_premise

# Of github.com/causalNLP/corr2cause, code/data_postprocess.ipynb.
NOTHING = (
    "Suppose there is a closed system of 3 variables, A, B and C. All the statistical relations among these 3 "
    "variables are as follows: A is independent of B. A and B are independent given C. A is independent of C. A and C "
    "are independent given B. B is independent of C. B and C are independent given A."
)
# Of the published data.
FORKED = (
    "Suppose there is a closed system of 4 variables, A, B, C and D. All the statistical relations among these 4 "
    "variables are as follows: A correlates with B. A correlates with C. A correlates with D. B correlates with C. B "
    "correlates with D. C correlates with D. However, B and D are independent given A. B and D are independent given A "
    "and C. C and D are independent given A. C and D are independent given A and B."
)
COLLIDER = (
    "Suppose there is a closed system of 3 variables, A, B and C. All the statistical relations among these 3 "
    "variables are as follows: A correlates with C. B correlates with C. However, A is independent of B."
)


def test_premises_are_as_published() -> None:
    said = {premise(found.independent, letters(n)).text for n in (3, 4) for found in classes(n)}
    assert {NOTHING, FORKED, COLLIDER} <= said
    assert letters(3, "refactor") == ("Z", "Y", "X")
    two = premise(classes(2)[1].independent, letters(2, "refactor"))
    assert two.text.startswith("Suppose there is a closed system of 2 variables, Z and Y.")
    assert two.text.endswith(" among these 2 variables are as follows: Z correlates with Y.")


@pytest.mark.parametrize(
    ("relation", "perturb", "variant", "said"),
    [
        ("parent", "none", 0, "A directly causes B."),
        ("child", "none", 0, "B directly causes A."),
        ("non-parent ancestor", "none", 0, "A causes something else which causes B."),
        ("non-parent ancestor", "none", 1, "A is a cause for B, but not a direct one."),
        ("non-child descendant", "none", 1, "B is a cause for A, but not a direct one."),
        ("has_collider", "none", 0, "There exists at least one collider (i.e., common effect) of A and B."),
        ("has_confounder", "none", 1, "There exists at least one confounder (i.e., common cause) of B and A."),
        ("parent", "paraphrase", 0, "A directly affects B."),
        ("child", "paraphrase", 1, "B directly affects A."),
        ("non-child descendant", "paraphrase", 0, "B influences A through some mediator(s)."),
        ("has_collider", "paraphrase", 0, "A and B together cause some other variable(s)."),
        ("has_confounder", "paraphrase", 0, "Some variable(s) cause(s) both A and B."),
    ],
)
def test_hypotheses_are_as_published_and_read_back(relation: str, perturb: str, variant: int, said: str) -> None:
    made = hypothesis(relation, ("A", "B"), perturb, variant)
    assert made.text == said
    assert read_hypothesis(said, ("A", "B")) == made


@pytest.mark.parametrize("nodes", [2, 3, 4])
def test_premises_read_back_as_what_was_said(nodes: int) -> None:
    for found in classes(nodes):
        names = letters(nodes)
        read, apart = read_premise(premise(found.independent, names).text)
        assert read == names
        sets = tuple(
            sum(
                1 << sum(1 << names.index(name) for name in given)
                for given in apart.get(frozenset((names[i], names[j])), [])
            )
            for i, j in pairs(nodes)
        )
        assert sets == found.independent


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_both_solvers_agree_on_every_label(nodes: int) -> None:
    names = letters(nodes)
    for found in classes(nodes):
        follows = verdicts(premise(found.independent, names).text)
        for (a, b), held in follows.items():
            mask = found.entailed[names.index(a)][names.index(b)]
            assert held == {name for bit, name in enumerate(RELATIONS) if mask >> bit & 1}, (found.dag, a, b)


def test_the_second_solver_finds_released_labels_wrong() -> None:
    wrong = 0
    for found in classes(4, "released"):
        names = letters(4)
        for (a, b), held in verdicts(premise(found.independent, names).text).items():
            mask = found.entailed[names.index(a)][names.index(b)]
            wrong += len(held ^ {name for bit, name in enumerate(RELATIONS) if mask >> bit & 1})
    assert wrong == 14  # of 1,440


def test_single_verdicts() -> None:
    assert verdict(COLLIDER, "A directly causes C.")
    assert verdict(COLLIDER, "There exists at least one collider (i.e., common effect) of B and A.")
    assert not verdict(COLLIDER, "C directly affects A.")
    assert not verdict(FORKED, "A directly causes D.")
    with pytest.raises(ValueError, match="no graph has these"):
        verdict(FORKED.replace(" C and D are independent given A.", ""), "A directly causes D.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Suppose there is a closed system of 2 variables, A and A.",
        FORKED + " A is tall.",
        FORKED.replace("and C.", "and Q."),
    ],
)
def test_refuses_other_premises(text: str) -> None:
    with pytest.raises(ValueError, match="premise: expected"):
        verdict(text, "A directly causes B.")


@pytest.mark.parametrize("text", ["A causes B.", "A directly causes Z.", "A directly causes A."])
def test_refuses_other_hypotheses(text: str) -> None:
    with pytest.raises(ValueError, match="hypothesis: expected"):
        verdict(COLLIDER, text)
