"""When a curriculum goes on, and that it can be put down and taken up."""

from __future__ import annotations

from rmt.training import Curriculum


def feed(curriculum: Curriculum, accuracies: list[float]) -> list[bool]:
    return [curriculum.observe(curriculum.current, a) for a in accuracies]


def test_it_goes_on_when_a_whole_window_is_good_and_not_before() -> None:
    curriculum = Curriculum(3, advance_at=0.9, window=4)
    assert feed(curriculum, [1, 1, 1]) == [False] * 3
    assert feed(curriculum, [1]) == [True]
    assert curriculum.current == 1
    assert feed(curriculum, [0, 1, 1, 1, 1]) == [False, False, False, False, True]


def test_it_stays_at_the_last_stage() -> None:
    curriculum = Curriculum(1, window=1)
    assert feed(curriculum, [1, 1]) == [False, False]


def test_patience_moves_it_on_without_accuracy() -> None:
    assert feed(Curriculum(2, window=2, patience=3), [0, 0, 0]) == [False, False, True]


def test_other_stages_do_not_count() -> None:
    curriculum = Curriculum(3, window=1, current=1)
    assert not curriculum.observe(0, 1.0)
    assert curriculum.current == 1


def test_earlier_stages_are_mixed_in_at_the_given_share() -> None:
    curriculum = Curriculum(4, mix=0.25, current=3)
    drawn = [curriculum.choose(step) for step in range(2000)]
    earlier = sum(stage < 3 for stage in drawn) / len(drawn)
    assert 0.2 < earlier < 0.3
    assert set(drawn) == {0, 1, 2, 3}
    assert drawn == [curriculum.choose(step) for step in range(2000)]


def test_a_saved_state_goes_on_like_the_one_it_was_taken_from() -> None:
    first = Curriculum(3, window=3)
    feed(first, [1, 1])
    second = Curriculum(3, window=3)
    second.load_state_dict(first.state_dict())
    assert feed(first, [1, 0.5]) == feed(second, [1, 0.5])
    assert first.state_dict() == second.state_dict()
