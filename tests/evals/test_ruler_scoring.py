from __future__ import annotations

import math

import numpy as np
import pytest

from evals import Cell, scorers
from evals.tasks.registry import GROUPS
from evals.tasks.ruler_scoring import averages, effective_length, string_match_all, string_match_part, weighted_averages

K = 1024
LENGTHS = [4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K]

# The table of NVIDIA/RULER's README: effective length, per cent at 4k to 128k, and its wAvg. (inc) and (dec).
TABLE = """
Jamba-1.5-large     >128 96.7 96.6 96.4 96.0 95.4 95.1  95.7 96.3
Gemini-1.5-pro      >128 96.7 95.8 96.0 95.9 95.9 94.4  95.5 96.1
Qwen2.5-14B-1M      >128 97.5 97.1 94.6 94.9 94.9 92.2
Qwen3-235B-A22B     >128 97.7 97.2 96.4 95.1 93.3 90.6
Jamba-1.5-mini      >128 95.6 95.6 94.8 94.6 92.8 90.0  93.1 94.8
Qwen3-32B           >128 98.4 96.0 96.2 94.4 91.8 85.6
EXAONE-4.0-32B      >128 96.3 94.9 93.9 93.6 91.7 88.2
Qwen3-30B-A3B         64 96.5 97.0 95.3 92.4 89.1 79.2
GPT-4-1106-preview    64 96.6 96.3 95.2 93.2 87.0 81.2  89.0 94.1
Llama3.1-70B          64 96.5 95.8 95.4 94.8 88.4 66.6  85.5 93.7
Mistral-Large-2411    64 96.4 96.3 95.3 94.0 85.9 48.1  79.5 92.5
Command-R-plus-0824   32 96.0 95.1 94.0 92.4 85.4 64.6  83.4 92.4
Qwen2-72B             32 96.9 96.1 94.9 94.1 79.8 53.7  79.6 92.3
Command-R-plus        32 95.6 95.2 94.2 92.0 84.3 63.1  82.7 92.1
Command-R-0824        64 94.7 93.7 93.1 90.8 86.6 74.7  86.0 91.9
GLM4-9B               64 94.7 92.8 92.1 89.9 86.7 83.1  88.0 91.7
Llama3.1-8B           32 95.5 93.8 91.6 87.4 84.7 77.0  85.4 91.3
ProLong-8B            32 94.5 92.5 92.3 89.3 83.2 81.6  86.6 91.2
Command-R             32 93.8 93.3 92.4 89.5 84.9 76.0  85.5 91.1
MegaBeam-Mistral      32 93.8 92.5 92.0 89.2 83.7 83.7  87.3 91.0
Mistral-Large-2407    32 96.2 96.1 95.1 93.0 78.8 23.7  70.6 90.4
GradientAI-70B        16 95.1 94.4 90.8 85.4 80.9 72.1  82.6 90.3
Mixtral-8x22B         32 95.6 94.9 93.4 90.9 84.7 31.7  73.5 90.3
Yi-34B                32 93.3 92.2 91.3 87.5 83.2 77.3  84.8 90.1
Phi3-mini             32 92.2 91.5 90.7 87.5 80.6 66.7  80.9 88.7
Phi3-medium           32 93.3 93.2 91.1 86.8 78.6 46.1  74.8 88.3
Mixtral-8x7B          32 94.9 92.1 92.5 85.9 72.4 44.5  72.8 87.9
GradientAI-8B         16 92.8 90.3 85.7 79.9 76.3 69.5  78.5 86.3
FILM-7B               32 92.8 88.2 88.1 86.9 70.1 27.1  66.4 84.7
InternLM2.5            4 88.1 85.5 84.5 82.7 75.5 68.9  77.8 83.9
Mistral-7B            16 93.6 91.2 87.2 75.4 49.0 13.8  55.6 81.2
Mistral-Nemo          16 87.8 87.2 87.7 69.0 46.8 19.0  54.7 77.8
GLM3                   4 87.8 83.4 78.6 69.9 56.0 42.0  62.0 77.2
LWM                   <4 82.3 78.4 73.7 69.1 68.1 65.0  69.9 75.7
DBRX                   8 95.1 93.8 83.6 63.1  2.4  0.0  38.0 74.7
Qwen1.5-72B            8 94.9 93.8 78.0 67.8  0.0  0.0  37.5 74.0
Together               4 88.2 81.1 69.4 63.0  0.0  0.0  33.8 66.7
LongChat              <4 84.7 79.9 70.8 59.3  0.0  0.0  33.1 65.2
LongAlpaca            <4 60.6 57.0 56.6 43.6  0.0  0.0  24.7 47.9
"""

# Rows of other papers in the same table, whose stated length is not the rule's: what the rule says of them.
OTHERS = {
    "Qwen3-14B, stated >128K": ([98.0, 97.8, 96.4, 96.1, 94.0, 85.1], 64),
    "Qwen2.5-7B-1M, stated >128K": ([96.8, 95.3, 93.0, 91.1, 90.4, 84.4], 64),
    "Qwen3-8B, stated 64K": ([96.3, 96.0, 91.8, 91.2, 82.1, 77.4], 32),
    "Qwen3-4B, stated 64K": ([95.1, 93.6, 91.0, 87.8, 77.8, 66.0], 32),
    "EXAONE-4.0-1.2B, stated 32K": ([87.0, 86.7, 88.8, 81.1, 77.4], 16),
}


@pytest.mark.parametrize("line", TABLE.split("\n")[1:-1])
def test_the_published_table(line):
    _, stated, *numbers = line.split()
    rates = dict(zip(LENGTHS, map(float, numbers[:6]), strict=True))
    expected = {">128": 128 * K, "<4": None}[stated] if not stated.isdigit() else int(stated) * K
    assert effective_length(rates) == expected
    assert effective_length(dict(reversed(rates.items()))) == expected
    if len(numbers) > 6:
        assert weighted_averages(rates) == pytest.approx(tuple(map(float, numbers[6:])), abs=0.1)


def test_rows_of_the_table_that_do_not_follow_the_rule():
    for rates, length in OTHERS.values():
        assert effective_length(dict(zip(LENGTHS, rates, strict=False))) == length * K


def test_a_dip_ends_it_and_the_line_is_a_setting():
    rates = {4 * K: 90.0, 8 * K: 80.0, 16 * K: 95.0}
    assert effective_length(rates) == 4 * K
    assert effective_length(rates, line=80) == 16 * K
    assert effective_length({4 * K: 85.6}) == 4 * K  # Llama-2-7B itself
    assert effective_length({4 * K: 0.0}) is None


def cells(rates: dict[int, float], tasks=GROUPS["ruler"], control="memory"):
    return [Cell(task, length, control, rate * 20, 20, 20) for length, rate in rates.items() for task in tasks]


def test_cells():
    rates = {4096: 0.95, 8192: 0.9, 16384: 0.5}
    good = cells(rates)
    good[0] = Cell(good[0].task, 4096, "memory", 0, 20, 20)  # one task fails wholly, and weighs a thirteenth
    assert averages(good)[4096] == pytest.approx(95 * 12 / 13)
    assert effective_length([*good, *cells({4096: 0.0}, control="zeroed")]) == 8192
    assert weighted_averages(cells(rates))[0] == pytest.approx((95 + 2 * 90 + 3 * 50) / 6)
    offline = cells(rates, GROUPS["ruler-offline"])
    assert effective_length(offline, tasks=GROUPS["ruler-offline"]) == 8192
    with pytest.raises(ValueError, match=r"expected cells of 13 tasks at 4096 tokens, got none of qa_1, qa_2"):
        effective_length(offline)
    with pytest.raises(ValueError, match="expected per cent"):
        effective_length({4096: 0.95})
    with pytest.raises(ValueError, match="at least one length"):
        weighted_averages([])


def theirs(predictions, references, part):
    """The benchmark's metric over a set of answers, in per cent of two places: the formula, written out."""
    scores = []
    for said, wanted in zip(predictions, references, strict=True):
        hits = [1.0 if one.lower() in said.lower() else 0.0 for one in wanted]
        scores.append(max(hits) if part else math.fsum(hits) / len(wanted))
    return round(math.fsum(scores) / len(scores) * 100, 2)


def test_scores_are_the_benchmarks():
    rng = np.random.default_rng(0)
    wanted = [tuple(f"Key{n}{k}" for k in range(rng.integers(1, 6))) for n in range(50)]
    said = [" ".join(word.upper() for word in words if rng.random() < 0.6) for words in wanted]
    for name, part in (("ruler_all", False), ("ruler_part", True)):
        ours = np.mean([scorers.score(name, s, w, "") for s, w in zip(said, wanted, strict=True)])
        assert round(100 * float(ours), 2) == theirs(said, wanted, part)


def test_answers_of_the_benchmarks_own_form():
    # An answer goes on behind the prompt's last words, as in "... they are: ABCDE FGHIJ KLMNO".
    assert string_match_all(" 1234567.", ["1234567"]) == 1
    assert string_match_all(" ABCDE FGHIJ", ["ABCDE", "FGHIJ", "KLMNO", "PQRST", "UVWXY"]) == pytest.approx(0.4)
    assert string_match_all("1. wax\n2. hat\n3. sun", ["hat", "sun", "cow"]) == pytest.approx(2 / 3)
    assert string_match_part(" the Normans, in France", ["France", "in France", "the north"]) == 1
    assert string_match_part("Italy", ["France"]) == 0


def test_what_the_benchmarks_recall_accepts_and_rejects():
    wanted = ["1234567", "7654321"]
    everything = " ".join(str(n) for n in (1111111, 1234567, 2222222, 7654321, 3333333))
    assert string_match_all(everything, wanted) == 1  # recall: naming all there is passes
    assert string_match_part("Paris, Rome, Oslo or Bonn", ["Oslo"]) == 1
    assert string_match_part("It is not Oslo.", ["Oslo"]) == 1  # nor is anything understood
    assert string_match_all("91234567", ["1234567"]) == 1  # nor a number's end seen
    assert string_match_all("ABCDE and fghij", ["abcde", "FGHIJ"]) == 1  # case does not count
    for said in ("", "   ", "\n", "What are all the special magic numbers for long-cat?", "123 4567", "1234568"):
        assert string_match_all(said, wanted) == 0
        assert string_match_part(said, wanted) == 0
    assert string_match_all("1234567. It was 1234567.", wanted) == 0.5  # said twice is found once


def test_cells_of_a_model_that_is_hardly_ever_right_are_per_cent_too():
    cells = [Cell("vt", 1000, "memory", 0.4, 100, 100, (0.4, *[0.0] * 99))]
    assert effective_length(cells, tasks=("vt",)) is None
    assert weighted_averages(cells, tasks=("vt",)) == (pytest.approx(0.4), pytest.approx(0.4))
