"""Published layouts that can be imported, and how their tensors and configs map to ours.

llava-hf            model_type llava with a text_config; `language_model.`, `vision_tower.`, `multi_modal_projector.`
TinyLLaVA Factory   model_type tinyllava; `language_model.`, `vision_tower._vision_tower.`, `connector._connector.`
LLaVA, Bunny        mm_vision_tower in the config; `model.`, `model.vision_tower.vision_tower.`, `model.mm_projector.`

Sources: transformers' conversion mapping of `llava`; TinyLLaVA_Factory, tinyllava/model; Bunny, bunny/model; LLaVA,
llava/model. All of them put the picture at id -200 or at a token of the vocabulary; here it is IMAGE
(`remora.token_ids`), so those are not imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import LlavaConfig, PretrainedConfig

from remora.errors import DataError, first_line
from remora.exchange.adapters import check_finite, merge
from remora.exchange.config import NOTHING, OF_THE_WHOLE, RULES, PublishedConfig, build_config, shown
from remora.exchange.held import Held, floating_type, read_held
from remora.exchange.tensors import read_object
from remora.exchange.tower import BUFFERS

TEXT_TYPES = {
    "llava": "llama",
    "llama": "llama",
    "mistral": "mistral",
    "phi": "phi",
    "phi3": "phi3",
    "stablelm": "stablelm",
    "qwen": "qwen2",
    "qwen2": "qwen2",
    "gemma": "gemma",
}
"""Last word of a model_type of the LLaVA family (bunny-qwen, tiny_llava_phi) -> the model type of transformers."""
STABLELM = {"rope_pct": "partial_rotary_factor", "norm_eps": "layer_norm_eps"}
"""StableLM's config keys from before it was part of transformers, which Bunny uses."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A checkpoint by part. Tensors have the names of each part's transformers class."""

    layout: str
    llm_hub: str | None
    llm_config: PretrainedConfig
    llm: dict[str, Tensor]
    """The backbone's tensors begin with `@.`, because its name in the whole model depends on the class."""
    vision_hub: str | None
    vision_config: PretrainedConfig | None
    """None if the layout gives only the tower's hub id."""
    vision: dict[str, Tensor]
    """Empty if the layout leaves out a frozen tower's weights."""
    layer: int
    prefix: int
    """Tokens dropped at the start; with SigLIP and TinyLLaVA's `patch` it is the first patch, so 728 remain."""
    depth: int
    """Number of linear layers of the connector."""
    connector: dict[str, Tensor]
    """Names of an `nn.Sequential`: 0.weight, 0.bias, 2.weight, …"""
    head_bias: bool
    """Whether this layout keeps a head's bias. LLaVA's does not, even if the class has one (Phi-2)."""
    aspect: Literal["square", "pad"]
    tokenizers: tuple[Path, ...] = ()
    """Folders that may have its tokenizer, the likeliest first."""
    notes: tuple[str, ...] = ()
    """What the person who imports should know, a line each."""


def read_published(folder: Path, base: str | None = None) -> PublishedCheckpoint:
    """Recognise a checkpoint's layout and sort its tensors by part; `base` is the base of its adapters.

    Raises:
        DataError: an unknown layout, an unsupported connector or strategy, tensors that belong to no part, or a tensor
            with NaN or an infinity.
    """
    held = read_held(folder, base)
    settings = PublishedConfig(folder, held.config)
    kind = held.config.get("model_type")
    if kind == "llava" and "text_config" in settings:
        return _llava_hf(settings, held)
    if kind == "tinyllava":
        return _factory(settings, held)
    if "mm_vision_tower" in settings:
        return _llava(settings, held)
    raise DataError(
        f"{folder}: model_type {shown(kind)} is not a layout that can be imported; known: llava (llava-hf), tinyllava "
        "(TinyLLaVA Factory), bunny-*, and LLaVA's own (mm_vision_tower in config.json); see docs/exchange.md"
    )


def _sort(settings: PublishedConfig, held: Held, places: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, Tensor]]:
    """Tensors by part, adapters merged. The first prefix of `places` that fits says (part, what replaces it)."""
    parts: dict[str, dict[str, Tensor]] = {"llm": {}, "vision": {}, "connector": {}}
    lost = []
    for name, tensor in held.tensors.items():
        for prefix, (part, instead) in places.items():
            if name.startswith(prefix):
                own = instead + name.removeprefix(prefix)
                if own in parts[part]:
                    raise DataError(f"{settings.folder}: {name} is there twice, under two names; download it again")
                parts[part][own] = tensor
                break
        else:
            lost.append(name)
    if lost:
        some = ", ".join(name[:80] for name in sorted(lost)[:3])
        raise DataError(
            f"{settings.folder}: {len(lost)} tensors belong to no part, e.g. {some}; "
            "the checkpoint is of another layout than its config.json says"
        )
    merged = {part: merge(part, state, held.adapter) for part, state in parts.items()}
    for part, state in merged.items():
        check_finite(part, state)
    kept = floating_type(merged["llm"])
    wider = [n for n, t in merged["llm"].items() if torch.finfo(kept).eps > _eps(t) and not n.endswith(BUFFERS)]
    if wider:
        kind = str(kept).removeprefix("torch.")
        held.notes.append(
            f"{len(wider)} tensors of the language model are rounded to {kind}, as most of it is, e.g. {min(wider)}"
        )
    return merged


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 1.0


def _llava_hf(settings: PublishedConfig, held: Held) -> PublishedCheckpoint:
    texts = settings.nested("text_config")
    vision = settings.tower()
    try:
        config = LlavaConfig.from_dict(held.config)
    except Exception as e:  # transformers validates with types of its own
        raise DataError(f"{settings.folder}: config.json makes no llava: {first_line(e)}; check the file") from e
    for key, wanted in (("projector_hidden_act", "gelu"), ("multimodal_projector_bias", True)):
        if getattr(config, key) != wanted:
            raise DataError(
                f"{settings.folder}: {key} {getattr(config, key)!r} has no connector here, only {wanted!r} has"
            )
    strategy = settings.word("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise settings.wrong("vision_feature_select_strategy", "default or full")
    linear = {f"linear_{i}.": ("connector", f"{2 * (i - 1)}.") for i in (1, 2)}
    places = {
        "language_model.model.": ("llm", "@."),
        "language_model.lm_head.": ("llm", "lm_head."),
        "model.language_model.": ("llm", "@."),
        "lm_head.": ("llm", "lm_head."),
        **{f"{m}multi_modal_projector.{k}": v for m in ("", "model.") for k, v in linear.items()},
        **{f"{m}vision_tower.{v}": ("vision", "") for m in ("", "model.") for v in ("vision_model.", "")},
    }
    parts = _sort(settings, held, places)
    return PublishedCheckpoint(
        layout="llava-hf",
        llm_hub=_hub(held.config["text_config"].get("_name_or_path")),
        llm_config=texts,
        llm=parts["llm"],
        vision_hub=_hub(held.config["vision_config"].get("_name_or_path")),
        vision_config=vision,
        vision=parts["vision"],
        layer=_counted_from_the_end(settings.layer("vision_feature_layer"), vision.num_hidden_layers),
        prefix=1 if strategy == "default" else 0,
        depth=2,
        connector=parts["connector"],
        head_bias=False,
        # Whether pictures are padded is only in the processor's config.
        aspect="pad" if _processor_says(settings.folder, "do_pad") else "square",
        tokenizers=held.folders,
        notes=tuple(held.notes),
    )


def _factory(settings: PublishedConfig, held: Held) -> PublishedCheckpoint:
    strategy = settings.word("vision_feature_select_strategy", "patch")
    if strategy not in ("patch", "cls_patch"):
        raise settings.wrong("vision_feature_select_strategy", "patch or cls_patch")
    kind = settings.word("connector_type", "none")
    vision = settings.tower()
    places = {
        "language_model.": ("llm", ""),
        "vision_tower._vision_tower.vision_model.": ("vision", ""),
        "vision_tower._vision_tower.": ("vision", ""),
        "connector._connector.": ("connector", "0." if kind == "linear" else ""),
    }
    parts = _sort(settings, held, places)
    return PublishedCheckpoint(
        layout="TinyLLaVA Factory",
        llm_hub=_hub(held.config.get("llm_model_name_or_path")),
        llm_config=settings.nested("text_config"),
        llm=parts["llm"],
        vision_hub=_hub(held.config.get("vision_model_name_or_path")),
        vision_config=vision,
        vision=parts["vision"],
        layer=_counted_from_the_end(settings.layer("vision_feature_layer"), vision.num_hidden_layers),
        prefix=1 if strategy == "patch" else 0,
        depth=_connector_depth(settings, kind),
        connector=parts["connector"],
        head_bias=True,
        aspect=settings.aspect(),
        tokenizers=held.folders,
        notes=tuple(held.notes),
    )


def _llava(settings: PublishedConfig, held: Held) -> PublishedCheckpoint:
    """LLaVA's layout and those derived from it. A tower's weights may be left out; then they are the hub's."""
    kind = settings.word("model_type", "none")
    text = TEXT_TYPES.get(re.split("[-_]", kind)[-1])
    if text is None:
        raise DataError(
            f"{settings.folder}: model_type {shown(kind)} has no language model of transformers; known endings: "
            + ", ".join(TEXT_TYPES)
        )
    tower, connector = settings.word("mm_vision_tower", ""), settings.word("mm_projector_type", "linear")
    if not tower:
        raise settings.wrong("mm_vision_tower", "an encoder's hub id")
    places = {
        "model.mm_projector.": ("connector", "0." if connector == "linear" else ""),
        "model.vision_tower.vision_tower.vision_model.": ("vision", ""),
        "model.vision_tower.vision_tower.": ("vision", ""),
        "model.": ("llm", "@."),
        "lm_head.": ("llm", "lm_head."),
    }
    parts = _sort(settings, held, places)
    if not parts["llm"] and not held.connector_alone:
        raise DataError(f"{settings.folder}: the checkpoint has no language model; download it again")
    notes = [*held.notes]
    if not parts["vision"] and (trained := settings.trained_tower()):
        raise DataError(
            f"{settings.folder}: {trained} says that its encoder was trained, and the encoder's weights are not in the "
            "checkpoint; copy its vision_tower/ there"
        )
    if unread := sorted(k for k in held.config if OF_THE_WHOLE.match(k) and not _is_read(k)):
        notes.append(
            f"{len(unread)} keys of config.json that nothing here reads: {', '.join(k[:40] for k in unread[:8])}"
        )
    config = {k: v for k, v in held.config.items() if not OF_THE_WHOLE.match(k)}
    if text == "stablelm":
        config = {STABLELM.get(k, k): v for k, v in config.items()}
    return PublishedCheckpoint(
        layout="Bunny" if kind.startswith("bunny") else "LLaVA",
        llm_hub=_hub(held.config.get("_name_or_path")),
        llm_config=build_config(settings.folder, "the language model", text, config),
        llm=parts["llm"],
        vision_hub=_hub(tower),
        vision_config=None,
        vision=parts["vision"],
        layer=settings.layer("mm_vision_select_layer"),
        # The family drops the class token if there is one: CLIP has one, SigLIP does not.
        prefix=0 if "siglip" in tower.lower() else 1,
        depth=_connector_depth(settings, connector),
        connector=parts["connector"],
        head_bias=False,
        aspect=settings.aspect(),
        tokenizers=held.folders,
        notes=tuple(notes),
    )


def _is_read(key: str) -> bool:
    return (
        key in RULES
        or key in ("mm_vision_tower", "mm_projector_type", "mm_vision_select_layer")
        or bool(NOTHING.match(key))
    )


def _connector_depth(settings: PublishedConfig, kind: str) -> int:
    if kind == "linear":
        return 1
    if found := re.fullmatch(r"mlp([1-9]\d?)x_gelu", kind):
        return int(found[1])
    raise DataError(
        f"{settings.folder}: connector {shown(kind)} cannot be imported; known: linear and mlp2x_gelu, mlp3x_gelu, …"
    )


def _counted_from_the_end(layer: int, blocks: int) -> int:
    """A `vision_feature_layer`, which counts hidden states (0: the embeddings), from the end: -1 is the last one."""
    return layer if layer < 0 else layer - blocks - 1


def _processor_says(folder: Path, key: str) -> bool:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            processor = read_object(folder / name)
            inner = processor.get("image_processor", processor)
            return bool(inner.get(key)) if isinstance(inner, dict) else False
    return False


def _hub(name: object) -> str | None:
    """A hub id, without TinyLLaVA's `mof:` prefix; None for a path on the machine that trained the model."""
    if not isinstance(name, str) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    return name
