"""What ``gpu_images.py`` measures: LLaVA shapes with random weights, documents of pages, and a side's turn at a work.

Nothing is downloaded and nothing copied: models are built on their device, in their number format. A *work* is what
sides are compared at; each side of it is made once, as a function that takes one turn and says what it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import images
import numpy as np
import sizes
import torch
import training_sides
from sides import gap
from subject import SHUT, settle
from torch import nn

from rmt import pretrained
from rmt.executors import Captured, Executor, Wavefront, choose
from rmt.executors.captured import direct_call

Took = dict[str, float]
Turn = Callable[[], Took]
BATCH = 32  # segments that a reader hands over at a time, where an executor has no wish of its own
LABEL = 8  # words in front of an image, never cut from it


@dataclass(frozen=True)
class Shape:
    """What is measured.

    Attributes:
        vision: of a CLIPVisionConfig.
        hidden, inner, layers, heads, vocab: of the language model.
        image_token: behind all words.
        segment: tokens of one.
        words: of a page, behind its image.
        pages: of a short document and of a long one.
        pool, queries: of the projectors that make an image shorter.
        batches: images that the tower sees at once.
        memory: memory tokens.
        rank: of adapters.
    """

    vision: dict[str, int]
    hidden: int
    inner: int
    layers: int
    heads: int
    vocab: int
    image_token: int
    segment: int = 1024
    words: int = 500
    pages: tuple[int, int] = (100, 1000)
    pool: int = 2
    queries: int = 64
    batches: tuple[int, ...] = (1, 8, 32)
    memory: int = 16
    rank: int = 16


SEVEN_B = Shape(images.LARGE, 4096, 11_008, 32, 32, vocab=32_064, image_token=32_000)
SMALL = Shape(
    images.SMALL, 64, 128, 3, 2, vocab=300, image_token=299, segment=100, words=50, pages=(8, 24), queries=5,
    batches=(1, 2), memory=4, rank=2,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where, and of what shape."""

    shape: Shape
    device: str

    @property
    def dtype(self) -> torch.dtype:
        """Of weights: bfloat16, but in a rehearsal."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16


class Pages:
    """Pages, each an image with a label and words behind it, made when they are asked for and always the same; see
    :class:`multimodal.stream.Illustrated`.

    Args:
        shape: of pages.
        tokens_per_image: of the model that will read.
        count: pages.
    """

    def __init__(self, shape: Shape, tokens_per_image: int, count: int) -> None:
        self.shape, self.per_image, self.count = shape, tokens_per_image, count
        self.page = LABEL + tokens_per_image + shape.words

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.count * self.page

    def tokens(self, begin: int, end: int) -> np.ndarray:
        """Ids of a range, int64."""
        first = begin // self.page
        made = np.concatenate([self._ids(number) for number in range(first, -(-end // self.page))])
        return made[begin - first * self.page : end - first * self.page]

    def figures(self, begin: int, end: int) -> Iterator[tuple[int, int, int, Callable[[], np.ndarray]]]:
        """Figures that overlap a range."""
        for number in range(begin // self.page, -(-end // self.page)):
            start = number * self.page
            stop = start + LABEL + self.per_image
            if begin < stop and start < end:
                yield start, stop, start + LABEL, lambda number=number: picture(self.shape, number)

    def _ids(self, number: int) -> np.ndarray:
        ids = np.random.default_rng((1, number)).integers(0, self.shape.image_token, self.page)
        ids[LABEL : LABEL + self.per_image] = self.shape.image_token
        return ids


def picture(shape: Shape, number: int) -> np.ndarray:
    """Noise, uint8 (side, side, 3)."""
    side = shape.vision["image_size"]
    return np.random.default_rng((2, number)).integers(0, 256, (side, side, 3), dtype=np.uint8)


def image_processor(shape: Shape) -> Any:
    """CLIP's, for the tower's size; works on the CPU."""
    from transformers import CLIPImageProcessor

    side = {"height": shape.vision["image_size"], "width": shape.vision["image_size"]}
    return CLIPImageProcessor(size={"shortest_edge": side["height"]}, crop_size=side)


def nothing_to_prepare(shape: Shape) -> Any:
    """In the place of an image processor: the same pixels for every image, ready beforehand."""
    side = shape.vision["image_size"]
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(4))
    return lambda images, return_tensors: {"pixel_values": pixels}


def llava_config(shape: Shape, layers: int | None = None) -> Any:
    """LLaVA's configuration.

    Args:
        shape: see there.
        layers: of the language model; None for all.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=layers or shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=max(4096, 2 * shape.segment),
        tie_word_embeddings=False,
    )
    vision = CLIPVisionConfig(**shape.vision)
    patches = (shape.vision["image_size"] // shape.vision["patch_size"]) ** 2
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=shape.image_token, image_seq_length=patches
    )


def build(place: Place, *, memory: str = "gated", projector: str = "mlp", layers: int | None = None) -> Any:
    """A :class:`multimodal.LlavaRMT` with random weights, in evaluation mode.

    Args:
        place: where, and of what shape.
        memory: ``gated`` tokens, whose gates stay shut, which is how a trained model reads what it is not asked to
            keep; or ``associative``.
        projector: of :data:`multimodal.projector.KINDS`.
        layers: see :func:`llava_config`.
    """
    from transformers import LlavaForConditionalGeneration

    from multimodal import LlavaRMT

    s = place.shape
    kept: dict[str, Any] = {"memory_update": "gated", "gate_threshold": 0.6}
    if memory == "associative":
        kept = {"memory": memory, "associative_key_size": 16 if s is SMALL else 64, "associative_normalize": True}
    torch.manual_seed(0)
    with pretrained.quiet(), torch.device(place.device):
        llava: Any = LlavaForConditionalGeneration._from_config(llava_config(s, layers), dtype=place.dtype)
        model: Any = LlavaRMT.from_backbone(
            llava.eval(),
            segment_size=s.segment,
            num_memory_tokens=s.memory,
            projector=projector,
            projector_pool=s.pool,
            projector_queries=s.queries,
            **kept,
        )
    if memory == "gated":
        nn.init.constant_(model.cell.slot_gate.bias, SHUT)
    else:
        sizes._fill(model.cell.float(), s)  # a fresh one would store nothing, and no two memories could be compared
    return model.eval()


def held(model: nn.Module) -> int:
    """Bytes of a model's weights, each once."""
    return sum({t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())


def timed(device: str, run: Callable[[], Any], model: nn.Module | None = None) -> Took:
    """Seconds of a run, and on a GPU ``peak_gb``: the most that torch had allocated meanwhile.

    Args:
        device: type of it.
        run: what is timed.
        model: where others are there too, whose weights alone count among what was there before.
    """
    gpu = device == "cuda"
    settle()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    others = torch.cuda.memory_allocated() - held(model) if gpu and model is not None else 0
    start = time.perf_counter()
    run()
    settle()
    took = {"seconds": time.perf_counter() - start}
    return took | ({"peak_gb": (torch.cuda.max_memory_allocated() - others) / 1e9} if gpu else {})


def seeing(place: Place, batch: int) -> dict[str, Callable[[], Turn]]:
    """Images through the tower alone, through tower and projector, and as a processor prepares them on the CPU."""
    model = build(place, layers=1)
    side, device = place.shape.vision["image_size"], place.device
    pixels = torch.randn(batch, 3, side, side, device=device, dtype=place.dtype)
    times = 1 if device == "cpu" else max(4, 64 // batch)
    prepare, pictures = image_processor(place.shape), [picture(place.shape, n) for n in range(batch)]

    def turn(see: Callable[[], Any], times: int) -> Turn:
        def run() -> None:
            with torch.inference_mode():
                for _ in range(times):
                    see()

        run()  # kernels are chosen
        return lambda: {**timed(device, run, model), "images": batch * times}

    return {
        "tower": lambda: turn(lambda: model.vision_features(pixels), times),
        "tower + projector": lambda: turn(lambda: model.encode(pixels), times),
        "processor, on the CPU": lambda: turn(lambda: prepare(images=pictures, return_tensors="pt"), 1),
    }


def executor_of(config: Any, name: str, device: str) -> Executor:
    """An executor by name; on a CPU what records graphs is its twin that records none."""
    if name == "captured" and device == "cpu":
        if config.memory == "tokens":
            return Captured(BATCH, record=direct_call)
        return Wavefront(8 * config.num_hidden_layers, batched=True, record=direct_call)
    return choose(config, name, BATCH, device)[0]


def reader(place: Place, memory: str, projector: str = "mlp", *, prepared: bool = True) -> Any:
    """An :class:`multimodal.reader.AlbumReader` in sequence; the model that it was made from is gone.

    Pages come as ids, so its tokenizer is one in name only.

    Args:
        place: where.
        memory, projector: see :func:`build`.
        prepared: whether pixels are there beforehand, so that the CPU is not waited for.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from multimodal.reader import AlbumReader

    model = build(place, memory=memory, projector=projector)
    # Hashing 14 GB on a CPU would take half a minute, and no memory is kept here.
    model.fingerprint = lambda: "random weights"
    images_by = nothing_to_prepare if prepared else image_processor
    unasked = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"word": 0}, unk_token="word")))
    processor = SimpleNamespace(tokenizer=unasked, image_processor=images_by(place.shape))
    made = AlbumReader(model, processor, dtype=place.dtype, executor="sequential")
    del model
    training_sides.free()
    return made


def read_by(
    place: Place, album: Any, name: str, count: int, warm: int = 0, told: Callable[[Any], Took] | None = None
) -> Turn:
    """A turn of reading so many pages with an executor, over the weights of a reader.

    Args:
        place: where.
        album: the reader; the executor is put in the place of its own.
        name: of the executor.
        count: pages.
        warm: pages to read beforehand.
        told: what else there is to say of the memory.
    """
    config = album.model.config
    executor = executor_of(config, name, place.device)

    def run(count: int) -> Any:
        album.executor = album._reader.executor = executor  # a reader of its own would be a copy of all weights
        return album.read_tokens(Pages(place.shape, config.tokens_per_image, count))

    if warm:
        run(warm)

    def turn() -> Took:
        made: list[Any] = []
        took = timed(place.device, lambda: made.append(run(count)), album.model)
        (memory,) = made
        if not all(bool(tensor.isfinite().all()) for tensor in memory.tensors.values()):
            raise RuntimeError(f"expected a finite memory of {count} pages, got another")
        return {**took, "pages": count, "tokens": memory.meta.tokens_read, **(told(memory) if told else {})}

    return turn


def reading(place: Place, memory: str, names: tuple[str, ...]) -> dict[str, Callable[[], Turn]]:
    """A short document by several executors, over the same weights.

    Associative memories are compared with the first one's. With memory tokens ``captured`` reads segments in order
    where there are images among them, as nothing is recorded there that looks features up.
    """
    album, short = reader(place, memory), place.shape.pages[0]
    first: list[Any] = []

    def told(found: Any) -> Took:
        if memory != "associative":
            return {}  # of shut gates, zeros
        first.append(found)
        return {"differs": gap(dict(found.tensors), dict(first[0].tensors))}

    return {name: lambda name=name: read_by(place, album, name, short, warm=short, told=told) for name in names}


def lengths(place: Place, memory: str) -> dict[str, Callable[[], Turn]]:
    """A short document and a long one by what ``auto`` takes, preparing of images included."""
    album, short = reader(place, memory, prepared=False), place.shape.pages[0]
    return {
        f"{count:,} pages": lambda count=count: read_by(place, album, "auto", count, warm=short * (count == short))
        for count in place.shape.pages
    }


def projectors(place: Place) -> dict[str, Callable[[], Turn]]:
    """A short document with images of as many tokens as patches, as pooled ones, and as queries."""
    short = place.shape.pages[0]
    return {
        kind: lambda kind=kind: read_by(place, reader(place, "gated", kind), "auto", short, warm=short)
        for kind in ("mlp", "pooled", "resampler")
    }
