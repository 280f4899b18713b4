"""AlbumReader against the model's own forward, itself in pieces, and itself after a broken run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal import LlavaRMT
from multimodal.feature_cache import FeatureCache
from multimodal.gallery import AT_ONCE
from multimodal.pieces import Figure
from multimodal.reader import AlbumReader
from multimodal.stream import Unit, of_pieces
from rmt.errors import InputError
from rmt.executors import Captured, Wavefront
from rmt.executors.captured import direct_call
from rmt.memory import Memory
from rmt.reader import Reader
from tests.multimodal import album_kit as kit


def by_forward(model: LlavaRMT, document: list[str | Figure]) -> Memory:
    """The twin: all of a document in one call of the model."""
    processor = kit.processor()
    ids: list[int] = []
    glue: list[int] = []
    pixels = []
    for item in of_pieces(document, processor.tokenizer):
        if isinstance(item, Unit):
            unit = [*item.before, *[model.config.image_token_id] * kit.TOKENS, *item.after]
            pixels.append(processor.image_processor(images=[item.image], return_tensors="pt")["pixel_values"])
            ids, glue = ids + unit, glue + [len(pixels)] * len(unit)
        else:
            ids, glue = ids + item.tolist(), glue + [0] * len(item)
    with torch.no_grad():
        memory = model(input_ids=torch.tensor([ids]), pixel_values=torch.cat(pixels), glue=torch.tensor([glue])).memory
    assert memory is not None
    return memory.detach()


def close(a: Memory, b: Memory, tolerance: float = 1e-5) -> bool:
    """Up to rounding, relative to the largest number."""
    pairs = [(t, b.tensors[name]) for name, t in a.tensors.items()]
    return all(float((x - y).abs().max()) <= tolerance * float(y.abs().max()) for x, y in pairs)


def same(a: Memory, b: Memory) -> bool:
    return all(torch.equal(t, b.tensors[name]) for name, t in a.tensors.items())


@pytest.fixture(scope="module")
def model() -> LlavaRMT:
    return kit.model()


@pytest.mark.parametrize(
    ("memory", "executor"),
    [
        ("gated", "sequential"),
        ("gated", "speculative"),
        ("gated", "packed"),
        ("plain", "auto"),
        ("associative", "sequential"),
        ("associative", "wavefront"),
    ],
)
def test_equals_the_model_itself(memory: str, executor: str) -> None:
    made = kit.model(memory)
    wanted = by_forward(made, kit.album())
    got = kit.reader(made, executor=executor, batch_segments=5).read(kit.album(), progress=False)
    assert got.meta.segments_read == wanted.meta.segments_read
    assert got.meta.tokens_read == wanted.meta.tokens_read
    assert got.meta.extra["images"] == "12"
    # A plain memory is written anew 18 times by random weights, which multiply rounding each time.
    assert close(got, wanted, 1e-3 if memory == "plain" else 1e-5)
    assert not close(wanted, made.initial_memory(1).detach(), 0.1), "it wrote"


def test_images_matter() -> None:
    reader, document = kit.reader(kit.model("plain")), kit.album()
    other = [Figure(kit.picture(99), p.label, p.after) if p is document[11] else p for p in document]
    a, b = reader.read(document, progress=False), reader.read(other, progress=False)
    assert not close(a, b, 0.1)
    assert a.meta.digest != b.meta.digest


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), seed=st.integers(0, 3))
@settings(max_examples=8)
def test_pieces_of_any_size_give_the_same_bits(model: LlavaRMT, sizes: list[int], seed: int) -> None:
    reader, document = kit.reader(model, batch_segments=3), kit.album(5, seed)
    whole = reader.read(document, progress=False)
    pieces = reader.read(iter(kit.in_pieces(document, sizes)), progress=False)
    assert same(whole, pieces)
    assert whole.meta == pieces.meta


def test_text_alone_is_read_as_by_the_reader_of_text(model: LlavaRMT) -> None:
    text = "an old clock had stopped at noon and nobody cared to wind it again " * 20
    expected = Reader(model, kit.tokenizer(), dtype="float32", batch_segments=4).read(
        kit.tokenizer()(text, add_special_tokens=False)["input_ids"], progress=False
    )
    got = kit.reader(model, batch_segments=4).read([text], progress=False)
    assert same(got, expected)
    assert got.meta.segments_read == expected.meta.segments_read


class Document:
    """What an evaluation gives: ids on demand, images as functions."""

    def __init__(self, document: list[str | Figure], image_token: int) -> None:
        ids: list[int] = []
        self.units = []
        for item in of_pieces(document, kit.tokenizer()):
            if isinstance(item, Unit):
                start, place = len(ids), len(ids) + len(item.before)
                ids += [*item.before, *[image_token] * kit.TOKENS, *item.after]
                self.units.append((start, len(ids), place, lambda image=item.image: image))
            else:
                ids += item.tolist()
        self.ids, self.length = np.array(ids), len(ids)

    def tokens(self, begin: int, end: int) -> list[int]:
        return self.ids[begin:end].tolist()

    def figures(self, begin: int, end: int) -> Iterator[tuple[int, int, int, Callable[[], np.ndarray]]]:
        return (unit for unit in self.units if unit[0] < end and unit[1] > begin)


def test_a_document_of_ranges_is_read_as_its_pieces(model: LlavaRMT) -> None:
    reader = kit.reader(model, batch_segments=3)
    document = Document(kit.album(), model.config.image_token_id)
    ranges, pieces = reader.read_tokens(document), reader.read(kit.album(), progress=False)
    assert same(ranges, pieces)
    assert ranges.meta.digest == pieces.meta.digest
    on = reader.read_tokens(document, memory=ranges)
    assert (on.meta.tokens_read, on.meta.extra["images"]) == (2 * document.length, "24")
    assert not same(on, ranges)


def test_each_image_is_encoded_once_and_few_are_held(model: LlavaRMT, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    encode = LlavaRMT.vision_features

    def watched(self: LlavaRMT, pixel_values: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixel_values))
        return encode(self, pixel_values)

    monkeypatch.setattr(LlavaRMT, "vision_features", watched)
    alive: list[Any] = []
    most = 0

    def stream() -> Iterator[str | Figure]:
        nonlocal most
        for number in range(100):
            image = kit.picture(number)
            alive.append(ref(image))
            yield Figure(image, "a frame")
            del image
            yield "some words between two frames. "
            most = max(most, sum(r() is not None for r in alive))

    reader = kit.reader(model)
    assert reader.read(stream(), progress=False).meta.extra["images"] == "100"
    assert sum(batches) == 100
    assert max(batches) <= AT_ONCE
    assert most <= 2, "pixels are gone once they have been preprocessed"
    assert not reader._shelf._tables, "features are gone with their group"


def test_an_image_that_comes_again_is_found_in_the_cache(model: LlavaRMT) -> None:
    document = kit.album(4) * 3
    cache = FeatureCache(None)
    plain, cached = kit.reader(model), kit.reader(model, features=cache)
    wanted, got = plain.read(document, progress=False), cached.read(document, progress=False)
    assert close(got, wanted)
    assert (cache.misses, cache.hits) == (4, 8)


class Broken(Exception):
    """Stands for a kill."""


def broken_off(document: list[str | Figure], after: int) -> Iterator[str | Figure]:
    yield from document[:after]
    raise Broken


@pytest.mark.parametrize("executor", ["auto", "sequential"])
def test_goes_on_after_a_kill_with_the_same_bits(model: LlavaRMT, tmp_path: Path, executor: str) -> None:
    reader, document = kit.reader(model, executor=executor, batch_segments=3), kit.album()
    before = reader.read(["something read earlier. "], progress=False)
    whole = reader.read(document, memory=before, progress=False)
    places = set()
    for after in range(6, len(document), 3):
        path = tmp_path / f"{after}.partial"
        with pytest.raises(Broken):
            reader.read(broken_off(document, after), memory=before, checkpoint=path, checkpoint_every=1, progress=False)
        places.add(int(Memory.load(path).meta.extra["position"]))
        resumed = reader.read(
            kit.in_pieces(document, [7]), memory=before, checkpoint=path, checkpoint_every=50, progress=False
        )
        assert same(resumed, whole)
        assert resumed.meta == whole.meta
    assert len(places) > 2
    assert same(reader.read(document, memory=before, checkpoint=path, progress=False), whole), "nothing left to read"


def test_a_broken_image_keeps_what_was_read(model: LlavaRMT, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(kit.picture(number)).save(folder / f"{number}.jpg")
    (folder / "39.txt").write_text("That was all.")
    reader, path = kit.reader(model, batch_segments=4), tmp_path / "a.partial"
    whole = reader.read(folder, progress=False)
    good = (folder / "30.jpg").read_bytes()
    (folder / "30.jpg").write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"^image 31, at token \d+: .*30\.jpg: expected a whole image"):
        reader.read(folder, checkpoint=path, progress=False)
    position = int(Memory.load(path).meta.extra["position"])
    assert 0 < position < whole.meta.tokens_read
    with pytest.raises(InputError, match="image 31"):
        reader.read(folder, checkpoint=path, progress=False)
    (folder / "30.jpg").write_bytes(good)
    resumed = reader.read(folder, checkpoint=path, progress=False)
    assert same(resumed, whole)
    assert resumed.meta == whole.meta


def test_a_checkpoint_of_something_else_is_refused_and_kept(model: LlavaRMT, tmp_path: Path) -> None:
    reader, document, path = kit.reader(model, batch_segments=3), kit.album(), tmp_path / "a.partial"
    with pytest.raises(Broken):
        reader.read(broken_off(document, 20), checkpoint=path, checkpoint_every=1, progress=False)
    kept = path.read_bytes()
    other = [Figure(kit.picture(99), p.label, p.after) if p is document[1] else p for p in document]
    for wrong in (other, document[1:], document[:3], ["much " * 300]):
        with pytest.raises(InputError, match="checkpoint of this document"):
            reader.read(wrong, checkpoint=path, progress=False)
    with pytest.raises(InputError, match="checkpoint of this batch_segments"):
        kit.reader(model, batch_segments=4).read(document, checkpoint=path, progress=False)
    assert path.read_bytes() == kept
    grown = [*document, "and one more sentence."]
    assert same(reader.read(grown, checkpoint=path, progress=False), reader.read(grown, progress=False))
    reader.read(document, progress=False).save(path)
    with pytest.raises(InputError, match="got a finished memory"):
        reader.read(document, checkpoint=path, progress=False)


def test_what_is_recorded_serves_groups_without_images(model: LlavaRMT) -> None:
    text = "an old clock had stopped at noon and nobody cared to wind it again " * 30
    document = [text, *kit.album(3), text]
    reader = kit.reader(model, executor="sequential", batch_segments=4)
    expected = reader.read(document, progress=False)
    captured = Captured(4, least=2, record=direct_call)
    reader.executor = captured
    got = reader.read(document, progress=False)
    assert close(got, expected)
    assert len(captured._steps) == 1

    layered = kit.model("associative")
    reader = kit.reader(layered, executor="sequential", batch_segments=6)
    expected = reader.read(document, progress=False)
    wave = Wavefront(6, batched=True, record=direct_call)
    reader.executor = wave
    got = reader.read(document, progress=False)
    assert close(got, expected)
    assert len(wave._runs) == 1, "layers are stacked once, not once a group"


def test_several_threads_read_with_one_reader(model: LlavaRMT) -> None:
    reader = kit.reader(model, batch_segments=2)
    albums = [kit.album(6, seed) for seed in range(4)]
    alone = [reader.read(document, progress=False) for document in albums]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda document: reader.read(document, progress=False), albums))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_questions_are_answered_from_the_memory(model: LlavaRMT) -> None:
    reader = kit.reader(model)
    memory = reader.read(kit.album(), progress=False)
    first, second = reader.ask(memory, ["what was in the red frame?", "and behind it?"], max_new_tokens=5)
    assert first.question == "what was in the red frame?"
    assert reader.ask(memory, ["and behind it?"], max_new_tokens=5)[0].text == second.text
    other = kit.reader(kit.model("plain"))
    with pytest.raises(InputError, match="expected one of this model"):
        other.ask(memory, ["what?"])
    reader.tokenizer = deepcopy(reader.tokenizer)
    reader.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with pytest.raises(InputError, match=r"questions: expected words, got <image> in 'what is on <image>\?'"):
        reader.ask(memory, ["what?", "what is on <image>?"])


def test_wrong_input_is_one_clear_error(model: LlavaRMT, tmp_path: Path) -> None:
    reader = kit.reader(model)
    with pytest.raises(InputError, match=r"image 1, at token 1: .*expected uint8"):
        reader.read(["word", Figure(np.zeros((4, 4)))], progress=False)
    with pytest.raises(InputError, match="expected text or images, got neither"):
        reader.read([], progress=False)
    with pytest.raises(InputError, match="nothing of that name"):
        reader.read(tmp_path / "none", progress=False)
    with pytest.raises(InputError, match="segment_size: expected at least 4"):
        kit.reader(kit.model(segment_size=3)).read(kit.album(), progress=False)
    with pytest.raises(InputError, match="expected tokenizer and image_processor, got a BertTokenizer"):
        AlbumReader(model, kit.tokenizer())
    processor = deepcopy(kit.processor())
    processor.image_processor.crop_size = {"height": 8, "width": 8}
    with pytest.raises(InputError, match="expected one image of 3 × 16 × 16, got"):
        AlbumReader(model, processor, dtype="float32").read(kit.album(1), progress=False)
