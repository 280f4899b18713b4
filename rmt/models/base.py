"""What every recurrent model shares: a backbone, a memory cell, and the loop. Knows nothing of heads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init

from rmt import backbone as family
from rmt import orders
from rmt.cells import AssociativeMemoryCell, TokenMemoryCell, new_cell
from rmt.cells.layout import Teller
from rmt.cells.tokens import CellOutput
from rmt.config import RMTConfig
from rmt.errors import InputError
from rmt.memory import Memory, MemoryMeta
from rmt.recurrence import Emit, State, borders, run
from rmt.segments import Segment, split

Head = Callable[[Segment, CellOutput], Emit]


class RMTPreTrainedModel(PreTrainedModel):
    """A Hugging Face backbone that reads segment by segment, with a memory passed between.

    Subclasses set ``layout`` and build ``backbone``; everything else is composed.
    """

    config_class = RMTConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # Losses are means over this batch, so Trainer must divide by its accumulation steps itself.
    accepts_loss_kwargs = False
    layout: ClassVar[family.Layout]
    backbone: PreTrainedModel
    cell: TokenMemoryCell | AssociativeMemoryCell
    config: RMTConfig

    def __init__(self, config: RMTConfig, backbone: PreTrainedModel) -> None:
        super().__init__(config)
        family.family_of(config.backbone_config, self.layout)
        family.check_segment_size(config.backbone_config, config.segment_size, config.num_memory_tokens, config.memory)
        self.backbone = backbone
        self.cell = new_cell(config)

    @property
    def core(self) -> nn.Module:
        """The backbone from word embeddings to last hidden states, without any head."""
        return family.base_model(self.backbone)

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the backbone."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the backbone."""
        self.backbone.set_input_embeddings(value)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, TokenMemoryCell | AssociativeMemoryCell):
            module.reset_parameters(getattr(self.config.backbone_config, "initializer_range", 0.02), init)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Recompute activations segment by segment, the only border at which memory stops growing with length."""
        if (gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            raise InputError("gradient checkpointing: expected use_reentrant=False, got True; recurrence needs it")
        self.config.recurrence = "checkpointed"

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations."""
        self.config.recurrence = "plain"

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether activations are recomputed in backward."""
        return self.config.recurrence == "checkpointed"

    def on_positions(self, teller: Teller | None) -> None:
        """Tell ``teller`` which positions are memory tokens, around each run of the backbone or of one of its layers.

        The mask is true at memory tokens, those that are read and those that are written; of shape (positions,), or
        (batch, positions) where they stand elsewhere in each row, as in a padded prompt of ``generate``. Positions are
        those of what the backbone is given, so a token that goes on from a cache is one position and no memory. A
        learned layer that treats memory apart, such as one with 8-bit weights, shares the object and looks there.

        Args:
            teller: has ``told(mask)``, a context manager; copied with the model, so that copies read side by side.
                None for nobody. It is not saved.
        """
        self.cell.teller = teller

    def initial_memory(self, batch_size: int = 1) -> Memory:
        """The memory before anything is read; its tensors are described by the cell."""
        return Memory(self.cell.initial(batch_size), MemoryMeta())

    def fingerprint(self) -> str:
        """A short name for these weights and the layout they read with.

        Taken from a sample of every tensor, rounded to bfloat16, so that a float32 model and its bfloat16
        copy have the same; memories can pass between the two. With 8-bit weights it also tells how inputs are
        rounded, and whether memory is left out of that, which no weight shows.
        """
        config = self.config
        layout = repr((config.segment_size, config.num_memory_tokens, config.memory_update, config.gate_threshold))
        if config.memory == "associative":
            layout += repr([(k, v) for k, v in sorted(config.to_dict().items()) if k.startswith("associative_")])
        if config.retrieval_every:
            layout += repr([(k, v) for k, v in sorted(config.to_dict().items()) if k.startswith("retrieval_")])
        eight = [m for m in self.modules() if getattr(getattr(m, "weight", None), "dtype", None) == torch.int8]
        if eight:
            marked = any(getattr(module, "marks", None) is not None for module in eight)
            layout += repr((sorted({str(getattr(module, "activations", "")) for module in eight}), marked))
        digest = hashlib.sha256(layout.encode())
        for name, tensor in sorted(self.state_dict().items()):
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 1024)].to(torch.bfloat16).cpu().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    def segments(self, input_ids: Tensor, attention_mask: Tensor | None, size: int | None = None) -> list[Segment]:
        """Cut a batch into segments of ``size`` tokens, the configured size where None."""
        if size is not None:
            family.check_segment_size(
                self.config.backbone_config, size, self.config.num_memory_tokens, self.config.memory
            )
        return split(input_ids, attention_mask, size or self.config.segment_size)

    def run_segments(
        self,
        segments: list[Segment],
        state: State,
        head: Head,
        *,
        salient: Shaped[Tensor, "batch seq *memory"] | None = None,
        every_segment_counts: bool,
        write_last: bool = True,
    ) -> Iterator[tuple[State, Emit]]:
        """The recurrence over ``segments``; ``head`` turns a cell's output into what a segment emits.

        ``penalty``, the sum over rows of how open their gates stand for nothing, is emitted beside it. Where the memory
        after the last segment is of no use, as behind a question, ``write_last=False`` spares it.
        """

        def emit(segment: Segment, out: CellOutput) -> Emit:
            emitted = head(segment, out)
            if self.training and self.config.gate_penalty and out.gate_logits is not None:
                emitted["penalty"] = gate_penalty(segment, out.gate_logits, salient)
            return emitted

        def step(segment: Segment, before: State) -> tuple[State, Emit]:
            out = self.cell(self.core, segment, before, write=write_last or segment is not segments[-1])
            return out.state, emit(segment, out)

        depth, checkpointed = self.config.bptt_depth, self.config.recurrence == "checkpointed"
        if self.config.order != "segments" and write_last:
            cuts = borders(segments, depth)
            cell: Any = self.cell  # PEFT may have wrapped it
            outputs = orders.run(cell, self.core, segments, state, self.config.order, cuts, checkpointed)
            for segment, out in zip(segments, outputs, strict=True):
                yield out.state, orders.maybe_checkpoint(emit, checkpointed, segment, out)
            return
        yield from run(
            step,
            segments,
            state,
            bptt_depth=depth,
            checkpointed=checkpointed,
            # A penalty hangs on each segment too.
            every_segment_counts=every_segment_counts or (self.training and self.config.gate_penalty > 0),
            nested=self.config.memory == "associative",  # whose memories are large
        )

    def questions(
        self,
        memory: Memory,
        ids: Int[Tensor, "batch questions width"],
        mask: Shaped[Tensor, "batch questions width"] | None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """Questions of documents as rows of one batch, each with a copy of its document's memory.

        Associative memory is not copied: it is far larger than a question, which only looks at it.

        Returns:
            ids and mask of the rows, which of batch * questions they are (bool), and their memory before.

        Raises:
            InputError: no question at all.
        """
        count, width = ids.shape[1:]
        flat, flat_mask = (
            ids.reshape(-1, width),
            (torch.ones_like(ids) if mask is None else mask).reshape(-1, width).bool(),
        )
        real = flat_mask.any(dim=1)
        if not bool(real.any()):
            raise InputError("question_mask: expected at least one token in some question, got none; leave them out")
        if self.config.memory == "associative" and width <= self.config.segment_size:
            # A question that is not there stands as one token, or rows would not share memory evenly.
            first = torch.arange(width, device=ids.device) == 0
            flat_mask = flat_mask | (first & ~real[:, None])
            return flat, flat_mask, torch.ones_like(real), dict(memory.tensors)  # their logits mean nothing
        return flat[real], flat_mask[real], real, dict(memory.fork(count).index(real).tensors)

    def state_of(self, memory: Memory | None, batch: int) -> State:
        """The tensors of a memory, checked against the batch; the initial memory where none is given."""
        if memory is None:
            return self.cell.initial(batch)
        if memory.batch_size != batch:
            raise InputError(
                f"memory: expected one for each of {batch} rows, got {memory.batch_size}; fork it: memory.fork({batch})"
            )
        expected = {name: tuple(t.shape[1:]) for name, t in self.cell.initial(1).items()}
        got = {name: tuple(t.shape[1:]) for name, t in memory.tensors.items()}
        if got != expected:
            said, wanted = (", ".join(f"{k} of shape {v}" for k, v in shapes.items()) for shapes in (got, expected))
            raise InputError(f"memory: expected {wanted}, got {said}; it is of another model")
        return dict(memory.tensors)

    def reached(self, loss: Tensor | None) -> Tensor | None:
        """The same loss, on which every parameter of :meth:`waited_for` hangs, where several processes train.

        DistributedDataParallel waits for a gradient of each; a batch of one segment has none for the gates, nor one
        beyond the depth of truncation for the memory tokens.
        """
        together = distributed.is_available() and distributed.is_initialized()
        if loss is None or not (together and self.training and torch.is_grad_enabled()):
            return loss
        nothing = sum(p.sum() * 0.0 for p in self.waited_for() if p.requires_grad)
        return loss + nothing

    def waited_for(self) -> Iterable[nn.Parameter]:
        """Parameters that a batch may have no gradient for: those of the cell."""
        return self.cell.parameters()

    def memory_after(self, state: State, before: Memory | None, segments: list[Segment]) -> Memory:
        """A memory with its counts moved on by what was read (of the longest row)."""
        meta = before.meta if before is not None else MemoryMeta()
        read = sum(s.ids.shape[1] for s in segments)
        return Memory(state, meta).with_meta(
            tokens_read=meta.tokens_read + read, segments_read=meta.segments_read + len(segments)
        )


def memory_tokens(memory: Memory) -> Float[Tensor, "batch memory hidden"]:
    """The memory tokens that ``memory_targets`` speaks of.

    Raises:
        InputError: associative memory, which files under keys instead.
    """
    if "tokens" not in memory.tensors:
        raise InputError("memory_targets: expected memory tokens to file in, got associative memory; leave it out")
    return memory.tensors["tokens"]


def refuse_unknown(arguments: dict[str, Any]) -> None:
    """Refuse arguments of a forward that would change nothing.

    What tokenizers and transformers pass by themselves is let through: token types, positions, switches that are off.

    Raises:
        InputError: naming them.
    """
    harmless = {"token_type_ids", "position_ids", "cache_position"}
    unknown = [
        name for name, value in arguments.items() if name not in harmless and value is not None and value is not False
    ]
    if unknown:
        raise InputError(f"forward: expected arguments that it documents, got {', '.join(unknown)}; leave them out")


def gate_penalty(
    segment: Segment, logits: Float[Tensor, "batch gates"], salient: Shaped[Tensor, "batch seq *memory"] | None
) -> Float[Tensor, ""]:
    """Mean over rows of sum over slots of -log(1 - s), on segments without a salient token.

    Where ``salient`` speaks of each slot, a slot also stays shut on what concerns others, and is asked to open on what
    concerns it, by -log(s): the cross entropy of the gates. Without ``salient`` every segment counts. The logarithm
    keeps a gradient on a gate that is wrongly sure.
    """
    heard = torch.zeros_like(logits, dtype=torch.bool)
    if salient is not None:
        each = salient.bool() if salient.dim() == 3 else salient.bool()[:, :, None]
        rows = torch.arange(len(each), device=each.device)[:, None]
        told = (each[rows, segment.source] & segment.mask[:, :, None]).any(dim=1)
        # Gates of associative memory are those of the memory tokens, layer by layer.
        heard = heard | (told.tile(logits.shape[1] // told.shape[1]) if told.shape[1] > 1 else told)
    cost = F.softplus(logits) * ~heard
    if salient is not None and salient.dim() == 3:
        cost = cost + F.softplus(-logits) * heard
    return (cost * segment.active[:, None]).sum(dim=1).mean()
