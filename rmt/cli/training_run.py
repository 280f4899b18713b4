"""A training run, put together: model, batches, curriculum and Trainer. Where the core meets the tasks."""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rmt.cli.training_cheap import forget_quantization, fuse, masks_go_on, optimizer_of, quantise
from rmt.cli.training_memory import FRESH, memory_fields, stored_config
from rmt.errors import InputError


@dataclass(frozen=True)
class ModelSettings:
    """An encoder over MiniLM with LoRA, or a decoder from scratch; ``init`` goes on from one. ``quantization=nf4``
    trains adapters over 4-bit weights.

    Of the memory, None is as ``init`` has it, and without one as :data:`rmt.cli.training_memory.FRESH` says.
    """

    kind: str = "encoder"
    backbone: str = "minilm"
    dtype: str = "float32"
    hidden_size: int = 128
    layers: int = 4
    segment_size: int = 128
    memory: str | None = None
    memory_update: str | None = None
    associative_key_size: int | None = None
    associative_heads: int | None = None
    associative_normalize: bool | None = None
    gate_penalty: float = 0.02
    gate_threshold: float = 0.1
    bptt_depth: int | None = None
    recurrence: str = "plain"
    quantization: str = ""
    init: str = ""


@dataclass(frozen=True)
class LoraSettings:
    """PEFT's; r=0 trains all weights. ``fused`` runs its layers as one operation (``efficiency.lora``)."""

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    fused: bool = True


@dataclass(frozen=True)
class DataSettings:
    """Text to hide facts in: files, folders, `installed:`, `hub:NAME`; `cache` holds it as tokens. A decoder learns
    to predict the share `predicted` of it as well."""

    text: tuple[str, ...] = ("installed:",)
    cache: str = ""
    predicted: float = 0.0


@dataclass(frozen=True)
class CurriculumSettings:
    """Stages are SEGMENTSxSIZE:pPEOPLE:rROOMS:nNEAR_FACTS:fRELATIONS:lLEAD, LEAD segments at most read before;
    with :s where facts are spread, :cCUT for the share of these that a border cuts and :oOPENS for the share of
    documents that a fact opens."""

    stages: tuple[str, ...] = (
        "3x16:p3:r0:n0.3:s",
        "4x16:p3:r0.6:n0.3:s",
        "6x24:p4:r0.5:n0.5:s",
        "6x48:p4:r0.5:n1.0:s",
        "6x128:p4:r0.5:n1.5:s",
        "6x128:p4:r0.5:n1.5",
    )
    advance_at: float = 0.93
    mix: float = 0.3
    patience: int | None = None


@dataclass(frozen=True)
class OptimSettings:
    """AdamW, LOMO or AdaLomo with warm-up and linear decay to zero; ``optim=lomo`` is short for ``optim.name``."""

    name: str = "adamw"
    lr: float = 1e-3
    steps: int = 2000
    batch_size: int = 24
    warmup: int = 30
    max_grad_norm: float = 1.0
    bf16: bool = True


@dataclass(frozen=True)
class Settings:
    """Everything `rmt train` can be told."""

    output: str = "runs/train"
    seed: int = 0
    save_every: int = 100
    save_keep: int = 2
    log_every: int = 20
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    data: DataSettings = field(default_factory=DataSettings)
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)


KEYS = ("Mary", "John", "Daniel", "Sandra", "Fred", "Jeff", "Bill", "Julie", "north", "south", "east", "west")
STAGE = re.compile(r"(\d+)x(\d+)((?::[pfl]\d+|:[rnco]\d+(?:\.\d+)?|:s)*)")
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def stage(text: str) -> Any:
    """One stage from its short form."""
    from evals.tasks.training import Stage

    match = STAGE.fullmatch(text)
    if match is None:
        raise InputError(f"curriculum.stages: expected a stage such as 4x128:p3:r0.5:n0.3:s, got {text!r}")
    parts = {p[0]: p[1:] for p in match[3].split(":")[1:]}
    return Stage(
        int(match[1]),
        int(match[2]),
        people=int(parts.get("p", 4)),
        rooms=float(parts.get("r", 0.5)),
        near_facts=float(parts.get("n", 0.3)),
        relations=int(parts.get("f", 2)),
        spread="s" in parts,
        cut=float(parts.get("c", 0.0)),
        lead=int(parts.get("l", 0)),
        opens=float(parts.get("o", 0.0)),
    )


def build_model(settings: Settings, tokenizer: Any) -> Any:
    """The model to train: memory tokens filed under the words of :data:`KEYS`, LoRA where asked for."""
    import torch

    from evals.tasks.memory import PLACES
    from rmt import models
    from rmt.models.building import load
    from rmt.pretrained import minilm

    s = settings.model
    if s.init and s.kind == "encoder" and not settings.lora.r:
        raise InputError("model.init: expected an adapter to go on from, got lora.r=0; leave lora.r as it was")
    shape: dict[str, Any] = {
        "segment_size": s.segment_size,
        **memory_fields({name: getattr(s, name) for name in FRESH}, s.init, len(KEYS)),
        "gate_penalty": s.gate_penalty,
        "gate_threshold": s.gate_threshold,
        "bptt_depth": s.bptt_depth,
        "recurrence": s.recurrence,
    }
    torch.manual_seed(settings.seed)
    model: Any
    if s.kind == "decoder":
        if s.init:
            # A memory of another kind begins anew, with memory tokens of another number it may be.
            other = getattr(stored_config(s.init), "memory", None) != shape["memory"]
            begin = partial(models.RMTForCausalLM.from_pretrained, ignore_mismatched_sizes=other)
            return load(begin, s.init, dtype=torch.float32, **shape)
        model = models.RMTForCausalLM.from_backbone(small_llama(s, tokenizer), **shape)
        model.get_input_embeddings().weight.data.normal_(0, 0.05)
    elif s.kind == "encoder":
        model = models.RMTForSequenceClassification.from_backbone(
            minilm() if s.backbone == "minilm" else s.backbone,
            num_labels=len(PLACES),
            id2label=dict(enumerate(PLACES)),
            label2id={p: i for i, p in enumerate(PLACES)},
            backbone_kwargs={"attn_implementation": "eager"},
            **shape,
        )
    else:
        raise InputError(f"model.kind: expected encoder or decoder, got {s.kind!r}")
    without_dropout(model)
    ids = torch.tensor([tokenizer(k, add_special_tokens=False)["input_ids"][0] for k in KEYS])
    words = model.get_input_embeddings().weight.data
    if len(model.cell.memory) == len(KEYS):  # else there are those of `init`
        model.cell.memory.data.copy_(words[ids])
    if s.kind == "decoder":
        # A mark that all memory tokens share, or the text's own words would hide among them.
        model.cell.memory.data += torch.randn_like(words[0]) * words.std()
    if s.quantization:
        quantise(model, settings.optim.bf16)
    if s.kind == "encoder" and settings.lora.r:
        model = with_lora(model, settings)
        if settings.lora.fused:
            fuse(model, settings.seed)
    return model


def without_dropout(model: Any) -> None:
    """A memory that is to last is trained with every channel there."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def with_lora(model: Any, settings: Settings) -> Any:
    """PEFT's LoRA on every linear of the backbone; memory and head trained whole and saved with it."""
    from peft import PeftModel, get_peft_model

    from rmt.models.building import load

    if settings.model.init:
        return load(partial(PeftModel.from_pretrained, model), settings.model.init, is_trainable=True)
    return get_peft_model(model, lora_config(settings.lora))


def lora_config(lora: LoraSettings) -> Any:
    """PEFT's configuration of adapters for an encoder."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=["cell", "classifier"],
    )


def small_llama(s: ModelSettings, tokenizer: Any) -> Any:
    """A LLaMA-shaped decoder with fresh weights.

    In half of the heads keys start as queries, so that a position attends at first to its own word elsewhere (mimetic
    initialisation, arXiv 2305.09828, section 4): a memory token has to find the word that it is filed under.
    """
    from transformers import LlamaForCausalLM

    config = small_llama_config(s, len(tokenizer), tokenizer.pad_token_id)
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    half = s.hidden_size // 2
    for layer in model.model.layers:
        query, key = layer.self_attn.q_proj.weight.data, layer.self_attn.k_proj.weight.data
        key[:half] = query[:half].normal_(0, 0.5 * s.hidden_size**-0.5)
    return model


def small_llama_config(s: ModelSettings, vocabulary: int, padding: int | None) -> Any:
    """The shape of :func:`small_llama`."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=s.hidden_size,
        intermediate_size=s.hidden_size * 11 // 32 * 8,
        num_hidden_layers=s.layers,
        num_attention_heads=max(1, s.hidden_size // 32),
        num_key_value_heads=max(1, s.hidden_size // 32),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=padding,
    )


def backgrounds(settings: Settings, tokenizer: Any) -> list[Any]:
    """The texts as token files, built once and kept in ``data.cache``; a file that changed is built again."""
    from rmt.data import TokenFile, iter_text

    cache = Path(settings.data.cache or Path(settings.output) / "text")
    cache.mkdir(parents=True, exist_ok=True)
    files = []
    for source in settings.data.text:
        path = cache / token_file_name(source)
        if not path.is_file():
            TokenFile.build(iter_text(source), tokenizer, path, source=source)
        files.append(TokenFile.open(path, tokenizer))
    return files


def token_file_name(source: str) -> str:
    """A readable name that differs for each source and, of files and folders, for each state they are in."""
    place = Path(source).expanduser()
    parts = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in parts if p.is_file()]
    digest = hashlib.sha256(repr((source, state)).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', source).strip('-')[-60:]}-{digest}.tokens"


def accuracy(batch: Any, out: Any) -> float:
    """Share of questions answered right, of either kind of model."""
    if "question_targets" in batch:
        wanted = batch["question_targets"].max(-1).values
        right, asked = out.logits[:, :, -2].argmax(-1) == wanted, wanted >= 0
    else:
        right, asked = out.logits.argmax(-1) == batch["labels"], batch["labels"] >= 0
    return float(right[asked].float().mean())


def run(settings: Settings, resume: bool = True) -> Path:
    """Train, and leave the model in ``output``/model. A run that was killed goes on from its last checkpoint."""
    from transformers import AutoTokenizer

    from evals.tasks.training import MemoryTraining
    from rmt.pretrained import of_minilm
    from rmt.training import Curriculum, CurriculumTrainer, NumberedBatches, last_checkpoint

    stages = [stage(s) for s in settings.curriculum.stages]
    if settings.model.backbone != "minilm":
        raise InputError(
            f"model.backbone: expected minilm, got {settings.model.backbone!r}; train others with Trainer (README)"
        )
    tokenizer = of_minilm(AutoTokenizer.from_pretrained, model_max_length=int(1e30))
    spoken = settings.model.kind == "decoder"
    data = MemoryTraining(
        tokenizer,
        backgrounds(settings, tokenizer),
        settings.optim.batch_size,
        KEYS,
        spoken=spoken,
        predicted=settings.data.predicted,
        seed=settings.seed,
    )

    def make(step: int, number: int) -> dict[str, Any]:
        batch: dict[str, Any] = data.batch(step, stages[number])
        if model.config.memory != "tokens":
            del batch["memory_targets"]  # facts are filed under keys there, not each in a token of its own
            if model.config.num_memory_tokens != len(KEYS):
                batch["salient"] = batch["salient"].any(axis=2)
        return batch | {"segment_size": stages[number].segment_size} | ({"logits_to_keep": 2} if spoken else {})

    c, output = settings.curriculum, Path(settings.output)
    curriculum = Curriculum(len(stages), c.advance_at, mix=c.mix, patience=c.patience, seed=settings.seed)
    model = build_model(settings, tokenizer)
    trainer = CurriculumTrainer(
        batches=NumberedBatches(make, curriculum),
        accuracy=accuracy,
        model=model,
        args=arguments(settings, output),
        optimizers=(optimizer_of(model, settings.optim), None),
        callbacks=masks_go_on(model),
    )
    trainer.go_on(last_checkpoint(output) if resume else None)
    if trainer.is_world_process_zero():  # several at once would leave a mixture
        save(trainer.model, tokenizer, output / "model")
    return output / "model"


def arguments(settings: Settings, output: Path) -> Any:
    """Trainer's own settings."""
    import torch
    from transformers import TrainingArguments

    o = settings.optim
    return TrainingArguments(
        output_dir=str(output),
        max_steps=o.steps,
        learning_rate=o.lr,
        warmup_steps=o.warmup,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=o.max_grad_norm if o.name == "adamw" else 0.0,  # others clip for themselves
        bf16=o.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=settings.log_every,
        save_steps=settings.save_every,
        save_total_limit=settings.save_keep,
        report_to=["tensorboard"],
        seed=settings.seed,
        remove_unused_columns=False,
        ignore_data_skip=True,
        label_names=["labels"],
        dataloader_pin_memory=False,
    )


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the trained model: an adapter with the configuration beside it, or the whole model in bfloat16."""
    import torch

    from rmt.pretrained import HUB_MINILM, minilm

    if hasattr(model, "peft_config"):
        inner = model.base_model.model
        forget_quantization(inner)
        if inner.config.backbone_config._name_or_path == minilm():
            # Weights of the hub, wherever they were found: no folder of this machine belongs in a checkpoint.
            inner.config.backbone_config._name_or_path = HUB_MINILM
            model.peft_config["default"].base_model_name_or_path = HUB_MINILM
        model.save_pretrained(folder)
        inner.config.save_pretrained(folder)
        return
    # A copy of the model, not of its tensors, so that tied embeddings are written once.
    model = copy.deepcopy(model).to(torch.bfloat16)
    model.generation_config.max_new_tokens = 1  # a place is one word, and no end of text was learned behind it
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
