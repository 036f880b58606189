"""What an encoder makes of a picture's size: how many tokens, and whether it reads another size than it was trained at.

Facts of transformers' encoders, so that an entry is refused where it is read, before any module is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """The encoders of one model_type of transformers."""

    lead: int = 1
    """Tokens before the grid: a class token, and DeiT's for distillation; registers come on top."""
    patch: int = 16
    """patch_size where the config does not say."""
    image: int = 224
    """image_size where the config does not say."""
    other: Literal["asked", "always"] = "asked"
    """How other sizes are read. asked: learnt positions are interpolated where forward is told to. always: they are
    interpolated whatever the size is, or positions are rotary and have none."""

    registers: int = 0
    """num_register_tokens where the config does not say."""

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
"""Those whose sizes are known; another model_type is read only at the size that its config says."""
STRIDE = 32
"""Pixels of a side that become one token of EfficientNet-Lite."""


def trained_size(loader: str, config: Mapping[str, Any]) -> int | None:
    """Pixels of a side that the positions of an encoder are for; None where it has none, or the config does not say."""
    family = _family(loader, config)
    size = config.get("image_size", family.image if family else None)
    return size if isinstance(size, int) else None


def asks_for_interpolation(loader: str, config: Mapping[str, Any], size: int) -> bool:
    """Whether the encoder must be told that `size` is not the one that it was trained at."""
    family = _family(loader, config)
    trained = trained_size(loader, config)
    return family is not None and family.other == "asked" and trained not in (None, size)


def tokens_at(loader: str, config: Mapping[str, Any], size: int, prefix: int) -> int | None:
    """Tokens that a picture of `size` pixels a side gives, less `prefix` of them; None where nobody knows."""
    grid = _grid(loader, config, size)
    return grid.side**2 + grid.lead - prefix if grid else None


def size_problem(loader: str, config: Mapping[str, Any], size: int, tokens: int, prefix: int) -> str | None:
    """Why an encoder does not give `tokens` of a picture of `size` pixels a side, if it does not."""
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


def _family(loader: str, config: Mapping[str, Any]) -> Family | None:
    return FAMILIES.get(str(config.get("model_type"))) if loader == "transformers" else None


def _grid(loader: str, config: Mapping[str, Any], size: int) -> _Grid | None:
    """The patches of a picture, where the loader or the family of its config says how they are cut."""
    family = _family(loader, config)
    patch: Any
    if loader == "efficientnet-lite":
        patch, lead = STRIDE, 0
    elif loader == "eva-clip":
        patch, lead = config.get("patch_size"), 1
    elif family:
        patch, lead = config.get("patch_size", family.patch), family.leading(config)
    else:
        return None
    return _Grid(size // patch, patch, lead) if isinstance(patch, int) and patch > 0 else None
