"""What an adapter is made of, validated. Knows nothing of weights or models."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from rmt.errors import InputError

VARIANTS = ("v1", "v2")


@dataclass(frozen=True)
class AdapterConfig:
    """LLaMA-Adapter (arXiv 2303.16199) or LLaMA-Adapter V2 (arXiv 2304.15010); names as PEFT has them.

    Attributes:
        variant: ``"v1"``: adaption prompts with a gate a head, and a picture is added to them; ``"v2"``: besides, a
            scale and a bias on each linear layer, norms that train, and pictures as prompts of their own in the first
            layers.
        adapter_len: prompts in a layer (K).
        adapter_layers: layers that have them, counted from the top (L).
        visual_layers: with ``v2``, layers counted from the bottom whose prompts are pictures. Together with
            ``adapter_layers`` no more than there are: the paper keeps the two apart. Published for LLaMA-7B (section
            5.1): ``AdapterConfig("v2", adapter_len=20, adapter_layers=31, visual_layers=1)``.
        prompt_std: spread of fresh prompts. They stand where normed hidden states do, whose spread is about 1.

    Raises:
        InputError: a value out of its range.
    """

    variant: str = "v1"
    adapter_len: int = 10
    adapter_layers: int = 30
    visual_layers: int = 0
    prompt_std: float = 1.0

    def __post_init__(self) -> None:
        def require(holds: bool, expected: str, got: object) -> None:
            if not holds:
                raise InputError(f"AdapterConfig: expected {expected}, got {got!r}; change it")

        def whole(value: object, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        require(self.variant in VARIANTS, f"variant in {VARIANTS}", self.variant)
        require(whole(self.adapter_len, 1), "adapter_len to be a positive integer", self.adapter_len)
        require(whole(self.adapter_layers, 1), "adapter_layers to be a positive integer", self.adapter_layers)
        require(whole(self.visual_layers, 0), "visual_layers to be an integer, 0 or more", self.visual_layers)
        early = self.variant == "v2" or not self.visual_layers
        require(early, "visual_layers=0 with variant 'v1', which adds pictures to its prompts", self.visual_layers)
        std: Any = self.prompt_std
        number = isinstance(std, int | float) and not isinstance(std, bool)
        require(number and 0 < std < inf, "prompt_std above 0", std)

    def check(self, depth: int) -> None:
        """Refuse more layers than a model has.

        Raises:
            InputError: naming what fits.
        """
        if self.adapter_layers + self.visual_layers > depth:
            early = f" and visual_layers={self.visual_layers}" if self.visual_layers else ""
            raise InputError(
                f"adapter: expected at most {depth} layers in all, as many as the model has, got "
                f"adapter_layers={self.adapter_layers}{early}; choose fewer"
            )

    def to_dict(self) -> dict[str, Any]:
        """Fields by name, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> AdapterConfig:
        """What :meth:`to_dict` gave.

        Raises:
            InputError: no dictionary, or a key that is no field.
        """
        if not isinstance(given, dict):
            raise InputError(f"AdapterConfig: expected a dictionary of its fields, got {given!r}; give one")
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise InputError(
                f"AdapterConfig: expected keys among {', '.join(known)}, got {', '.join(unknown)}; drop them"
            )
        return cls(**given)
