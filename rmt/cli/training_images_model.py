"""The model that a training run with images begins with, and how it is saved: small from scratch, or a checkpoint."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt.cli.training_memory import FRESH, memory_fields
from rmt.errors import InputError

if TYPE_CHECKING:
    from rmt.cli.training_images_settings import ImageSettings

SIDE, PATCH = 32, 8  # pixels of a small tower's images, and of a patch
IMAGE = "<image>"
LAYER = -2  # of the tower, whose features are seen, as in LLaVA
CONFIG = "config.json"


def build(settings: ImageSettings) -> tuple[Any, Any]:
    """The model to train, in 4 bits and with adapters where asked for, and its processor.

    Raises:
        InputError: what to begin with is not there, or of another kind.
    """
    import torch

    torch.manual_seed(settings.seed)
    model = settings.model
    adapters = model.init if _is_adapter(model.init) else ""
    if adapters and not settings.lora.r:
        raise InputError("model.init: expected lora.r above 0 to go on from adapters, got 0; leave lora.r as it was")
    if model.init:
        made, processor = _went_on(settings, adapters)
    elif model.backbone == "small":
        made, processor = small(settings)
    else:
        made, processor = _checkpoint(model.backbone, _shape(settings)), processor_of(model.backbone)
    from multimodal.processing import LlavaRMTProcessor
    from rmt.cli.training_run import without_dropout

    without_dropout(made)
    if made.config.tokens_per_image != made.config.patches:  # else transformers' own counts rightly
        processor = LlavaRMTProcessor.for_model(made.config, processor)
    if model.quantization:
        from multimodal.training import quantise

        quantise(made, bf16=settings.optim.bf16)
    if settings.lora.r:
        from multimodal.training import with_lora
        from rmt.cli.training_cheap import fuse

        lora = settings.lora
        made = with_lora(made, r=lora.r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout, folder=adapters)
        # PEFT would look there for our configuration at each checkpoint, and find transformers'.
        made.peft_config["default"].base_model_name_or_path = None
        if lora.fused:
            fuse(made, settings.seed)
    return made, processor


def inner(model: Any) -> Any:
    """The model under adapters."""
    return model.base_model.model if hasattr(model, "peft_config") else model


def _shape(settings: ImageSettings) -> dict[str, Any]:
    """Fields of the model's configuration."""
    s = settings.model
    segment, tokens = (128 if s.backbone == "small" else 1024), 16
    if s.init:  # as it has them
        from multimodal import LlavaRMTConfig
        from rmt.models.building import load

        stored = load(LlavaRMTConfig.from_pretrained, s.init)
        segment, tokens = stored.segment_size, stored.num_memory_tokens
    judged = not (settings.data.llava or settings.data.captions)
    penalty, threshold = (0.3, 0.6) if judged else (0.0, 0.1)
    said = s.num_memory_tokens
    shape: dict[str, Any] = {
        "segment_size": segment if s.segment_size is None else s.segment_size,
        **memory_fields({name: getattr(s, name) for name in FRESH}, s.init, tokens if said is None else said),
        "gate_penalty": penalty if s.gate_penalty is None else s.gate_penalty,
        "gate_threshold": threshold if s.gate_threshold is None else s.gate_threshold,
        "bptt_depth": s.bptt_depth,
        "recurrence": s.recurrence,
        "freeze_vision": not s.train_vision,
    }
    if not s.init:
        shape |= {
            "projector": s.projector or "mlp",
            "projector_pool": s.projector_pool,
            "projector_queries": s.projector_queries,
        }
    return shape


def _went_on(settings: ImageSettings, adapters: str) -> tuple[Any, Any]:
    import torch

    from multimodal import LlavaRMT
    from rmt.models.building import load

    init = settings.model.init
    if adapters:
        from multimodal.training import base_of

        made = base_of(adapters, **_shape(settings))
    else:
        made = load(partial(LlavaRMT.from_pretrained, dtype=torch.float32), init, **_shape(settings))
    said = settings.model.projector
    if said is not None and said != made.config.projector:
        has = made.config.projector
        raise InputError(f"model.projector: expected {has}, as model.init has it, got {said}; leave it out")
    _plain_attention(made)
    return made, processor_of(init)


def _checkpoint(name: str, shape: dict[str, Any]) -> Any:
    """A LLaVA checkpoint, with a new memory."""
    import torch

    from multimodal import LlavaRMT

    return LlavaRMT.from_backbone(name, backbone_kwargs={"dtype": torch.float32}, **shape)


def base_name(settings: ImageSettings) -> str:
    """What the adapters of a run stand on: a folder or a name on the hub."""
    model = settings.model
    if not _is_adapter(model.init):
        return model.init or model.backbone
    from peft import PeftConfig

    return str(PeftConfig.from_pretrained(model.init).base_model_name_or_path)


def _is_adapter(init: str) -> bool:
    return bool(init) and (Path(init).expanduser() / "adapter_config.json").is_file()


def processor_of(name: str) -> Any:
    """The processor saved with a model.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoProcessor

    from rmt.models.building import load

    found = load(AutoProcessor.from_pretrained, name)
    if not hasattr(found, "image_processor"):
        raise InputError(f"{name}: expected a processor of images beside the model, got none; save LLaVA's there")
    return found


def small(settings: ImageSettings) -> tuple[Any, Any]:
    """A LLaVA from scratch for the offline world, with MiniLM's vocabulary and ``<image>``, and its processor.

    Memory token 2 * frame + attribute starts as the words that ask for it, the frame's colour and "digit" or "color",
    and a mark that all share; so keys of attention find what is to be written where.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from multimodal import LlavaRMT
    from multimodal.projector import initialise

    s, tokenizer = settings.model, small_tokenizer()
    tower, vision = _tower(s.vision)
    config = LlavaConfig(
        vision_config=vision,
        text_config=_text_config(s, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    llava: Any = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    if tower is not None:
        llava.model.vision_tower.load_state_dict(tower.state_dict())
    mimetic(llava.model.language_model, s.copying)
    words = llava.get_input_embeddings().weight.data.normal_(0, 0.05)
    model: Any = LlavaRMT.from_backbone(llava, **_shape(settings)).train()
    initialise(llava.model.multi_modal_projector, float(words.std()))
    keys = _keys(tokenizer, words)
    if model.config.memory == "tokens" and len(model.cell.memory) == len(keys):
        model.cell.memory.data.copy_(keys)
    if model.config.num_memory_tokens:
        # Without the mark the text's own words would hide among them.
        model.cell.memory.data += torch.randn_like(words[0]) * words.std()
    return model, small_processor(model, tokenizer, s.vision)


def mimetic(language_model: Any, copying: float) -> None:
    """In half of the heads keys start as queries (arXiv 2305.09828, section 4), so that a position attends at first to
    its own word elsewhere; with ``copying`` above 0 the output of attention starts as that times what it looked at."""
    width = language_model.config.hidden_size
    half, spread = width // 2, width**-0.5
    for layer in language_model.layers:
        attention = layer.self_attn
        query, key = attention.q_proj.weight.data, attention.k_proj.weight.data
        # 0.5 is enough where words are to be found; what is seen is further from its word.
        key[:half] = query[:half].normal_(0, spread if copying else 0.5 * spread)
        if copying:
            value = attention.v_proj.weight.data.normal_(0, spread)
            attention.o_proj.weight.data.copy_(copying * value.T)


def _keys(tokenizer: Any, words: Any) -> Any:
    import torch

    from evals.tasks.images.world import ATTRIBUTES, NAMES

    def word(text: str) -> Any:
        return words[tokenizer(text, add_special_tokens=False)["input_ids"][0]]

    return torch.stack([word(name) + word(attribute) for name in NAMES for attribute in ATTRIBUTES])


def small_tokenizer() -> Any:
    """MiniLM's, and one token for a part of an image."""
    from transformers import AutoTokenizer

    from rmt.pretrained import of_minilm

    tokenizer = of_minilm(AutoTokenizer.from_pretrained)
    tokenizer.model_max_length = int(1e30)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return tokenizer


def _text_config(s: Any, tokenizer: Any) -> Any:
    from rmt.cli.training_run import ModelSettings, small_llama_config

    return small_llama_config(
        ModelSettings(hidden_size=s.hidden_size, layers=s.layers), len(tokenizer), tokenizer.pad_token_id
    )


def _tower(folder: str) -> tuple[Any, Any]:
    """A CLIP-shaped tower and its configuration; fresh where none is named, and then it is None."""
    from transformers import CLIPVisionConfig

    if not folder:
        shape: dict[str, Any] = {
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        }
        return None, CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **shape)
    from multimodal.encoders import load_tower

    tower: Any = load_tower(folder)
    tower.config._name_or_path = ""  # no folder of this machine belongs in a checkpoint
    return tower, tower.config


def small_processor(model: Any, tokenizer: Any, vision: str = "") -> Any:
    """A LlavaProcessor with a CLIPImageProcessor that takes pixels to [-1, 1]."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    config = model.config.llava_config.vision_config
    if vision and (Path(vision).expanduser() / "preprocessor_config.json").is_file():
        images = CLIPImageProcessor.from_pretrained(vision)
    else:
        side = {"height": config.image_size, "width": config.image_size}
        images = CLIPImageProcessor(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def _plain_attention(model: Any) -> None:
    """On a CPU, bfloat16 and few tokens: three times as fast as PyTorch's fused attention."""
    import torch

    if not torch.cuda.is_available() and model.config.backbone_config.hidden_size <= 512:
        model.set_attn_implementation("eager")


def save(model: Any, processor: Any, folder: Path, base_model: str = "") -> None:
    """Write the trained model with its processor: whole in bfloat16, or an adapter with the configuration beside it.

    Args:
        model, processor, folder: what goes where.
        base_model: what adapters stand on, to be found again.
    """
    import torch

    if hasattr(model, "peft_config"):
        from rmt.cli.training_cheap import forget_quantization

        base = inner(model)
        forget_quantization(base)
        if hasattr(base.config.llava_config, "quantization_config"):
            del base.config.llava_config.quantization_config
        model.peft_config["default"].base_model_name_or_path = base_model
        model.save_pretrained(folder, save_embedding_layers=False)  # which did not learn
        base.config.save_pretrained(folder)
    else:
        # A copy of the model, not of its tensors, so that tied embeddings are written once.
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
