"""In what two variants differ: parts, recipe, and the settings of their stages as they ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from remora.pipeline.origin.stages import StageOrigin
from remora.spec import PARTS

FIXED = (*PARTS, "recipe", "seed")


@dataclass(frozen=True)
class SettingDifference:
    """A setting that two variants have otherwise."""

    setting: str
    """`connector`, `finetune.lr`, `pretrain.mixture`."""
    this: str
    other: str


def setting_differences(
    variants: tuple[Mapping[str, object], Mapping[str, object]],
    stages: tuple[Sequence[StageOrigin], Sequence[StageOrigin]],
) -> tuple[SettingDifference, ...]:
    """Of this variant and the other: what they name, then each stage as it ran; what follows from the recipe's name is
    told stage by stage."""
    said = [_flat({key: v.get(key) for key in FIXED}) for v in variants]
    ran = [dict(item for stage in of for item in _flat(stage.settings, f"{stage.stage}.").items()) for of in stages]
    both = [a | b for a, b in zip(said, ran, strict=True)]
    return tuple(
        SettingDifference(key, both[0].get(key, "none"), both[1].get(key, "none"))
        for key in dict.fromkeys((*both[0], *both[1]))
        if both[0].get(key) != both[1].get(key) and not key.endswith(".name")
    )


def choices(variant: Mapping[str, object]) -> dict[str, str]:
    """What a variant chooses, axis by axis: parts, recipe, seed, a space's axes, and other overrides."""
    chosen = variant.get("choice")
    named = _flat(chosen) if isinstance(chosen, Mapping) else {}
    overrides = variant.get("overrides")
    written = _flat(overrides) if isinstance(overrides, Mapping) else {}
    return _flat({key: variant.get(key) for key in FIXED}) | written | named


def axes_between(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The axes on which two variants differ."""
    a, b = choices(one), choices(other)
    return [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif key == "mixture" and isinstance(value, Sequence):
            yield f"{prefix}{key}", ", ".join(_entries(value))
        elif value is not None:
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)


def _entries(mixture: Iterable[object]) -> Iterator[str]:
    for entry in mixture:
        if isinstance(entry, Mapping):
            weight = entry.get("weight", 1.0)
            said = str(entry.get("dataset") or entry.get("path"))
            yield f"{said} x{weight:g}" if isinstance(weight, int | float) and weight != 1 else said
        else:
            yield str(entry)
