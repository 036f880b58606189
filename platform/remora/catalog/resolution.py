"""How many tokens an encoder makes of a picture of a given size, and which sizes it supports.

These are facts about transformers' encoders. With them a catalog entry is checked when it is read, before any module is
built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """The encoders of one model_type of transformers."""

    lead: int = 1
    """Tokens before the grid without registers: a class token, and DeiT's distillation token."""
    patch: int = 16
    """Default of patch_size in the config."""
    image: int = 224
    """Default of image_size in the config."""
    other: Literal["asked", "always"] = "asked"
    """How other sizes are supported. asked: learned positions are interpolated if forward is asked to. always: they are
    always interpolated, or positions are rotary."""

    registers: int = 0
    """Default of num_register_tokens in the config."""

    def leading(self, config: Mapping[str, Any]) -> int:
        return self.lead + int(config.get("num_register_tokens", self.registers))


FAMILIES = {
    "clip_vision_model": Family(patch=32),
    "chinese_clip_vision_model": Family(patch=32),
    "siglip_vision_model": Family(lead=0),
    "ijepa": Family(lead=0),
    "vit": Family(),
    "vit_msn": Family(),
    "deit": Family(lead=2),
    "dinov2": Family(patch=14, other="always"),
    "dinov2_with_registers": Family(other="always", registers=4),
    "dinov3_vit": Family(other="always"),
    "mlcd_vision_model": Family(patch=14, image=336, other="always"),
}
"""Families with known rules. Any other model_type is used only at its config's size."""
STRIDE = 32
"""Stride of EfficientNet-Lite: side in pixels of the square behind one token."""


def trained_size(loader: str, config: Mapping[str, object]) -> int | None:
    """Side in pixels that an encoder's positions were trained for; None if it has none, or the config does not give
    it."""
    family = _family(loader, config)
    size = config.get("image_size", family.image if family else None)
    return size if isinstance(size, int) else None


def asks_for_interpolation(loader: str, config: Mapping[str, object], size: int) -> bool:
    """Whether forward needs interpolate_pos_encoding, because `size` is not the training size."""
    family = _family(loader, config)
    trained = trained_size(loader, config)
    return family is not None and family.other == "asked" and trained not in (None, size)


def tokens_at(loader: str, config: Mapping[str, object], size: int, prefix: int) -> int | None:
    """Tokens of a picture with a side of `size` pixels, without the first `prefix`; None if unknown."""
    grid = _grid(loader, config, size)
    return grid.side**2 + grid.lead - prefix if grid else None


def size_problem(loader: str, config: Mapping[str, object], size: int, tokens: int, prefix: int) -> str | None:
    """Why an encoder does not make `tokens` of a picture with a side of `size` pixels; None if it does."""
    trained = trained_size(loader, config)
    if loader != "efficientnet-lite" and _family(loader, config) is None and trained not in (None, size):
        kind, known = config.get("model_type", loader), ", ".join(FAMILIES)
        return f"{kind} is trained at {trained} px and cannot be read at {size}; at other sizes: {known}"
    grid = _grid(loader, config, size)
    given = tokens_at(loader, config, size, prefix)
    if grid is None:
        return None
    if not grid.side:
        return f"a picture of {size} px has no patch of {grid.patch}"
    if given == tokens:
        return None
    before = f" and {grid.lead} before them, less a prefix of {prefix}" if grid.lead or prefix else ""
    return (
        f"a picture of {size} px is {grid.side} x {grid.side} patches of {grid.patch}{before}: "
        f"tokens {given}, not {tokens}"
    )


@dataclass(frozen=True)
class _Grid:
    side: int
    patch: int
    lead: int
    """Tokens before the grid."""


def _family(loader: str, config: Mapping[str, object]) -> Family | None:
    return FAMILIES.get(str(config.get("model_type"))) if loader == "transformers" else None


def _grid(loader: str, config: Mapping[str, object], size: int) -> _Grid | None:
    """The patch grid of a picture, if the loader or the config's family defines one."""
    family = _family(loader, config)
    patch: object
    if loader == "efficientnet-lite":
        patch, lead = STRIDE, 0
    elif loader == "eva-clip":
        patch, lead = config.get("patch_size"), 1
    elif family:
        patch, lead = config.get("patch_size", family.patch), family.leading(config)
    else:
        return None
    return _Grid(size // patch, patch, lead) if isinstance(patch, int) and patch > 0 else None
