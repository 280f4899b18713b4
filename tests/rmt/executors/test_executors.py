"""Reading ahead gives what reading in order gives, from the same batches whether or not a run was broken."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from threading import Barrier, Event
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from rmt import reference
from rmt.errors import InputError
from rmt.executors import Sequential, Speculative, choose
from rmt.executors.side_by_side import Dropped, Work, aside, each, lanes, still_wanted
from rmt.segments import split
from tests.rmt.tiny import causal, classifier, content

SIZE = 2


class Counting:
    """A model whose segments write when their first id is odd (``moody``: in view of the memory, too).

    Keeps the sizes of its batches; what is written tells the size of the batch (``crowd``), as rounding would.
    """

    training = False
    core = None

    def __init__(self, moody=False, crowd=False):
        self.batches, self.moody, self.crowd = [], moody, crowd

    def cell(self, core, segment, state):
        self.batches.append(len(segment.ids))
        memory = state["tokens"]
        sign = segment.ids[:, 0] + (memory[:, 0, 0].long() if self.moody else 0)
        wrote = (sign % 2 == 1)[:, None, None]
        told = len(segment.ids) / 8 if self.crowd else 0
        new = torch.where(wrote, memory % 64 * 1.5 + segment.ids.sum(dim=1)[:, None, None] + told, memory)
        return SimpleNamespace(state={"tokens": new})


def pattern(writes, tail=0):
    """Segments that write where told; ``tail`` tokens of a last, shorter one that writes."""
    ids = [x for n, write in enumerate(writes) for x in (2 * n + int(write), 7)] + [1] * tail
    return split(torch.tensor([ids]), None, SIZE)


def start():
    return {"tokens": torch.ones(1, 2, 3)}


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 1), st.integers(1, 9), st.booleans())
def test_any_pattern_of_writes(writes, tail, chunk, moody):
    segments = pattern(writes, tail)
    expected = Sequential().read(Counting(moody), segments, start())["tokens"]
    model = Counting(moody)
    assert torch.equal(Speculative(chunk).read(model, iter(segments), start())["tokens"], expected)
    chunks = -(-len(segments) // chunk) + tail
    assert sum(model.batches) <= len(segments) + Speculative().most * chunks, "rows run in vain are bounded"


@given(st.lists(st.booleans(), min_size=9, max_size=40), st.integers(2, 4))
def test_a_broken_run_goes_on_with_the_same_batches(writes, chunk):
    segments = pattern(writes, tail=1)
    whole, broken = Counting(), Counting()
    Speculative(chunk).read(whole, segments, start())
    border = chunk * (len(segments) // chunk // 2)
    state = Speculative(chunk).read(broken, segments[:border], start())
    Speculative(chunk).read(broken, segments[border:], state)
    assert broken.batches == whole.batches


@pytest.mark.parametrize(
    ("writes", "batches"),
    [
        ([False] * 30, [4, 8, 16, 2]),
        ([False, True, *[False] * 4], [4, 4]),
        ([False] * 6 + [True, False], [4, 4, 1]),
        ([True] * 3, [3, 2, 1]),
    ],
)
def test_batches(writes, batches):
    model = Counting()
    Speculative(32).read(model, pattern(writes), start())
    assert model.batches == batches


def test_a_chunk_begins_afresh():
    model = Counting()
    Speculative(4).read(model, pattern([True, False, False, False] * 2, tail=1), start())
    assert model.batches == [4, 3, 4, 3, 1]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 4))
def test_parts_side_by_side_give_the_same(writes, part):
    segments = pattern(writes)
    expected = Sequential().read(Counting(True), segments, start())["tokens"]
    got = Speculative(16, part=part).read(Counting(True), segments, start())["tokens"]
    assert torch.equal(got, expected)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def with_threads(threads, work):
    torch.set_num_threads(threads)
    return work()


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("part", "batches"), [(None, [4, 4, 4]), (4, [2] * 16), (3, [1, 3, *[1] * 30]), (1, [1] * 32)])
def test_batches_that_count_are_those_of_one_core(part, batches):
    model, alone = Counting(), Counting()
    segments = pattern([False, True, *[False] * 30])
    Speculative(32, part=part).read(model, segments, start())
    with_threads(1, lambda: Speculative(32, part=part).read(alone, segments, start()))
    assert alone.batches[: len(batches)] == batches
    assert not Counter(alone.batches) - Counter(model.batches)


def test_parts_begin_small_and_grow():
    model = Counting()
    with_threads(1, lambda: Speculative(16, part=4).read(model, pattern([False] * 32), start()))
    assert model.batches == [2, 4, 4, 4, 2] * 2


@pytest.mark.usefixtures("three_threads")
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 5), st.booleans())
def test_bits_do_not_depend_on_the_cores(writes, part, moody):
    segments, ahead = pattern(writes), Speculative(16, part=part)
    alone, together = (
        with_threads(threads, lambda: ahead.read(Counting(moody, crowd=True), segments, start())["tokens"])
        for threads in (1, 3)
    )
    assert torch.equal(alone, together)


@pytest.mark.usefixtures("three_threads")
@given(st.lists(st.booleans(), min_size=9, max_size=40), st.integers(2, 4), st.integers(1, 4))
def test_a_broken_run_of_parts_gives_the_same_bits(writes, chunk, part):
    segments, ahead = pattern(writes, tail=1), Speculative(chunk, part=part)
    whole = ahead.read(Counting(crowd=True), segments, start())
    border = chunk * (len(segments) // chunk // 2)
    state = ahead.read(Counting(crowd=True), segments[:border], start())
    state = ahead.read(Counting(crowd=True), segments[border:], state)
    assert torch.equal(state["tokens"], whole["tokens"])


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_part_is_told():
    class Broken(Counting):
        def cell(self, core, segment, state):
            if 3 in segment.ids:
                raise ZeroDivisionError
            return super().cell(core, segment, state)

    with pytest.raises(ZeroDivisionError):
        Speculative(16, part=1).read(Broken(), pattern([False, True, True, False]), start())


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_part_that_is_read_again_is_not():
    """The second segment is broken as long as the memory is what it was before the first."""
    at_it = Event()

    class Early(Counting):
        def cell(self, core, segment, state):
            first = int(segment.ids[0, 0])
            if first == 2 and torch.equal(state["tokens"], start()["tokens"]):
                at_it.set()
                raise ZeroDivisionError
            if first == 1:
                with aside():
                    assert at_it.wait(10)
            return super().cell(core, segment, state)

    segments = pattern([True, False, False, False])
    got = Speculative(16, part=1).read(Early(), segments, start())
    assert torch.equal(got["tokens"], Sequential().read(Counting(), segments, start())["tokens"])


@pytest.mark.usefixtures("three_threads")
def test_a_failed_lane_sends_the_others_home():
    """Lanes are at work until they are told to stop, and none is when the call returns."""
    stopped, working = Event(), []

    def run():
        number = len(working)
        working.append(number)
        if number == 2:
            raise KeyboardInterrupt
        stopped.wait(60)
        time.sleep(0.1)
        working.remove(number)

    with pytest.raises(KeyboardInterrupt):
        lanes(run, stopped.set)
    assert stopped.is_set()
    assert working == [2]


@pytest.mark.usefixtures("three_threads")
@pytest.mark.timeout(60)
def test_lanes_that_wait_for_a_part_end_when_it_fails():
    class Broken(Counting):
        def cell(self, core, segment, state):
            time.sleep(0.2)  # until the others wait
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Speculative(16, part=1).read(Broken(), pattern([False]), start())


@pytest.mark.usefixtures("three_threads")
def test_work_is_done_in_turns_but_for_what_is_aside():
    inside, most, together = [], [], Barrier(3)

    def run():
        with suppress(ZeroDivisionError), Work():
            inside.append(1)
            time.sleep(0.02)
            most.append(len(inside))
            inside.pop()
            with aside():
                together.wait(10)  # all three are aside at once
            raise ZeroDivisionError
        with Work():  # the turn came back
            pass

    lanes(run, lambda: None)
    assert most == [1, 1, 1]
    with aside():  # outside of work nothing happens
        pass


def test_dropped_work_ends_where_it_looks():
    work = Work()
    with work:
        still_wanted()
        work.dropped = True
        with pytest.raises(Dropped):
            still_wanted()
    still_wanted()  # outside of work nothing happens


@pytest.mark.usefixtures("three_threads")
def test_a_forked_process_reads_too():
    each(str, [1, 2])
    child = os.fork()
    if not child:
        os._exit(0 if each(str, [3, 4]) == ["3", "4"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("three_threads")
def test_threads_leave_the_caller_its_cores():
    before = torch.get_num_threads()
    assert each(lambda part: (torch.get_num_threads(), torch.is_inference_mode_enabled(), part), [7, 8, 9]) == [
        (1, True, 7),
        (1, True, 8),
        (1, True, 9),
    ]
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError):
        each(lambda part: 1 // part, [0, 1])


def sparse(model, spread=0.6):
    """Gates that open in some segments only."""
    torch.manual_seed(3)
    torch.nn.init.normal_(model.cell.slot_gate.weight, std=spread)
    torch.nn.init.constant_(model.cell.slot_gate.bias, -5.0)
    model.config.gate_threshold = 0.1
    return model.eval()


@pytest.mark.parametrize("make", [classifier, causal])
@pytest.mark.parametrize("length", [40 * 4, 40 * 4 + 3, 2])
def test_models(make, length):
    model = sparse(make(memory_update="gated"))
    segments = model.segments(content(1, length), None)
    state = model.initial_memory(1).tensors
    calls = []
    model.core.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        expected = Sequential().read(model, segments, dict(state))["tokens"]
        in_order = len(calls)
        ahead = Speculative(8).read(model, segments, dict(state))["tokens"]
    torch.testing.assert_close(ahead, expected, atol=1e-5, rtol=0)
    if length > 100:
        assert not torch.equal(ahead, state["tokens"]), "nothing was written, so nothing was shown"
        assert len(calls) - in_order <= in_order, "more runs of the backbone than one for each segment"


def test_against_the_reference():
    model = sparse(classifier(memory_update="gated"))
    ids = content(1, 90)
    with torch.inference_mode():
        state = Speculative(4).read(model, model.segments(ids, None), dict(model.initial_memory(1).tensors))
    torch.testing.assert_close(state["tokens"][0], reference.read(model, ids[0].tolist()), atol=1e-5, rtol=0)


def test_closed_gates_leave_every_bit():
    model = classifier(memory_update="gated").eval()
    torch.nn.init.constant_(model.cell.slot_gate.bias, -20.0)
    state = {"tokens": torch.randn(1, 3, 32)}
    with torch.inference_mode():
        after = Speculative(8).read(model, model.segments(content(1, 100), None), dict(state))
    assert torch.equal(after["tokens"], state["tokens"])


def test_refusals():
    model = classifier(memory_update="gated")
    segments, state = model.segments(content(1, 8), None), dict(model.initial_memory(1).tensors)
    with pytest.raises(InputError, match=r"model\.eval"):
        Speculative().read(model.train(), segments, state)
    with pytest.raises(InputError, match="one document"):
        Speculative().read(model.eval(), model.segments(content(2, 8), None), dict(model.initial_memory(2).tensors))


def test_choice():
    gated, plain = classifier(memory_update="gated").config, classifier().config
    assert choose(gated)[0] == Speculative(32, part=1)
    assert choose(causal(memory_update="gated").config)[0] == Speculative(32, part=4)
    assert choose(gated, device="cuda")[0] == Speculative(32, most=32)
    assert choose(gated, "sequential", 8)[0] == Sequential(8)
    assert choose(plain)[0] == Sequential(32)
    assert "replace" in choose(plain)[1]
    assert choose(classifier(memory_update="gated", gate_threshold=0.0).config)[0] == Sequential(32)
    with pytest.raises(InputError, match="replace"):
        choose(plain, "speculative")
    with pytest.raises(InputError, match="associative memory, local to a layer, got tokens"):
        choose(gated, "wavefront")
    with pytest.raises(InputError, match=r"expected one of auto, speculative, .* got 'diagonal'"):
        choose(gated, "diagonal")
    with pytest.raises(InputError, match="at least 1"):
        choose(gated, batch_segments=0)
