"""The published layouts that can be read, and what their tensors and configs are called in ours.

llava-hf            model_type llava with a text_config; `language_model.`, `vision_tower.`, `multi_modal_projector.`
TinyLLaVA Factory   model_type tinyllava; `language_model.`, `vision_tower._vision_tower.`, `connector._connector.`
LLaVA, Bunny        mm_vision_tower in the config; `model.`, `model.vision_tower.vision_tower.`, `model.mm_projector.`

Sources: transformers' conversion mapping of `llava`; TinyLLaVA_Factory, tinyllava/model; Bunny, bunny/model; LLaVA,
llava/model. All of them put the picture at id -200 or at a token of the vocabulary that is replaced; here it is
`remora.model.vlm.IMAGE`, so nothing is left of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor
from transformers import AutoConfig, LlavaConfig, PretrainedConfig

from remora.errors import DataError
from remora.model.exchange.checkpoint import read_config, read_tensors

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
"""Config names of StableLM before it came to transformers, which Bunny has."""
OF_THE_WHOLE = re.compile(
    r"mm_|image_|tokenizer_|tune_|freeze_|unfreeze_|use_mm_|s2|use_s2|continuous_training|auto_map|architectures|"
    r"model_type|transformers_version|_name_or_path"
)
"""Keys of a LLaVA-style config that are not the language model's."""


@dataclass(frozen=True)
class Published:
    """A checkpoint in our terms. Tensors keep the names of each part's transformers class; none are made up."""

    layout: str
    llm_hub: str | None
    llm_config: PretrainedConfig
    llm: dict[str, Tensor]
    """Below `@.` what is the backbone's, as its name in the whole model is the class's own affair."""
    vision_hub: str | None
    vision_config: PretrainedConfig | None
    """None where the layout names the tower by its hub id only."""
    vision: dict[str, Tensor]
    """Empty where the layout leaves a frozen tower at its hub."""
    layer: int
    prefix: int
    """Tokens dropped before the rest; with SigLIP and TinyLLaVA's `patch` it is the first patch, so that 728 stay."""
    depth: int
    """Linear layers of the connector."""
    connector: dict[str, Tensor]
    """Names of an `nn.Sequential`: 0.weight, 0.bias, 2.weight, …"""
    head_bias: bool
    """Whether a head with a bias has it in this layout. LLaVA's heads have none, whatever the class has (Phi-2)."""
    aspect: Literal["square", "pad"]


def read_published(folder: Path) -> Published:
    """Recognise a checkpoint's layout and sort its tensors by part.

    Raises:
        DataError: an unknown layout, a connector or strategy that has no place here, or tensors that belong nowhere.
    """
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == "llava" and "text_config" in config:
        return _llava_hf(folder, config)
    if kind == "tinyllava":
        return _factory(folder, config)
    if "mm_vision_tower" in config:
        return _llava(folder, config)
    raise DataError(
        f"{folder}: model_type {kind!r} is no layout that can be imported; known: llava (llava-hf), tinyllava "
        "(TinyLLaVA Factory), bunny-*, and LLaVA's own (mm_vision_tower in config.json); see docs/exchange.md"
    )


def _sort(
    folder: Path, tensors: Mapping[str, Tensor], places: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, Tensor]]:
    """Tensors by part: the first prefix of `places` that fits says (part, what replaces the prefix)."""
    parts: dict[str, dict[str, Tensor]] = {"llm": {}, "vision": {}, "connector": {}}
    lost = []
    for name, tensor in tensors.items():
        for prefix, (part, instead) in places.items():
            if name.startswith(prefix):
                parts[part][instead + name.removeprefix(prefix)] = tensor
                break
        else:
            lost.append(name)
    if lost:
        raise DataError(
            f"{folder}: {len(lost)} tensors belong to no part, e.g. {', '.join(sorted(lost)[:3])}; "
            "the checkpoint is of another layout than its config.json says"
        )
    return parts


def _llava_hf(folder: Path, said: dict[str, Any]) -> Published:
    config = LlavaConfig.from_dict(said)
    for key, wanted in (("projector_hidden_act", "gelu"), ("multimodal_projector_bias", True)):
        if getattr(config, key) != wanted:
            raise DataError(f"{folder}: {key} {getattr(config, key)!r} has no connector here, only {wanted!r} has")
    if not isinstance(config.vision_feature_layer, int):
        raise DataError(
            f"{folder}: vision_feature_layer {config.vision_feature_layer} reads several layers, here is one"
        )
    linear = {f"linear_{i}.": ("connector", f"{2 * (i - 1)}.") for i in (1, 2)}
    places = {
        "language_model.model.": ("llm", "@."),
        "language_model.lm_head.": ("llm", "lm_head."),
        "model.language_model.": ("llm", "@."),
        "lm_head.": ("llm", "lm_head."),
        **{f"{m}multi_modal_projector.{k}": v for m in ("", "model.") for k, v in linear.items()},
        **{f"{m}vision_tower.{v}": ("vision", "") for m in ("", "model.") for v in ("vision_model.", "")},
    }
    parts = _sort(folder, read_tensors(folder), places)
    vision = cast(PretrainedConfig, config.vision_config)
    return Published(
        layout="llava-hf",
        llm_hub=_hub(said["text_config"].get("_name_or_path")),
        llm_config=cast(PretrainedConfig, config.text_config),
        llm=parts["llm"],
        vision_hub=_hub(said["vision_config"].get("_name_or_path")),
        vision_config=vision,
        vision=parts["vision"],
        layer=_counted_from_the_end(config.vision_feature_layer, vision.num_hidden_layers),
        prefix=1 if config.vision_feature_select_strategy == "default" else 0,
        depth=2,
        connector=parts["connector"],
        head_bias=False,
        # A processor that pads says so; the picture's place in the layout's own config.json does not.
        aspect="pad" if _processor_says(folder, "do_pad") else "square",
    )


def _factory(folder: Path, said: dict[str, Any]) -> Published:
    strategy = said.get("vision_feature_select_strategy", "patch")
    if strategy not in ("patch", "cls_patch"):
        raise DataError(f"{folder}: vision_feature_select_strategy {strategy!r} is unknown; known: patch, cls_patch")
    depth = _connector_depth(folder, said.get("connector_type"))
    vision = _config_of(folder, "vision_config", said.get("vision_config"))
    places = {
        "language_model.": ("llm", ""),
        "vision_tower._vision_tower.vision_model.": ("vision", ""),
        "vision_tower._vision_tower.": ("vision", ""),
        "connector._connector.": ("connector", "0." if said.get("connector_type") == "linear" else ""),
    }
    parts = _sort(folder, read_tensors(folder), places)
    return Published(
        layout="TinyLLaVA Factory",
        llm_hub=_hub(said.get("llm_model_name_or_path")),
        llm_config=_config_of(folder, "text_config", said.get("text_config")),
        llm=parts["llm"],
        vision_hub=_hub(said.get("vision_model_name_or_path")),
        vision_config=vision,
        vision=parts["vision"],
        layer=_counted_from_the_end(int(said.get("vision_feature_layer", -2)), vision.num_hidden_layers),
        prefix=1 if strategy == "patch" else 0,
        depth=depth,
        connector=parts["connector"],
        head_bias=True,
        aspect=_aspect(folder, said),
    )


def _llava(folder: Path, said: dict[str, Any]) -> Published:
    """LLaVA's own layout and those grown from it. A tower's weights may be left out: they are the hub's then."""
    kind = str(said.get("model_type"))
    text = TEXT_TYPES.get(re.split("[-_]", kind)[-1])
    if text is None:
        raise DataError(
            f"{folder}: model_type {kind!r} has no language model of transformers; known endings: "
            + ", ".join(TEXT_TYPES)
        )
    if said.get("use_s2") or said.get("s2"):
        raise DataError(f"{folder}: the checkpoint reads several scales (S2); only single-scale towers can be imported")
    if said.get("mm_vision_select_feature", "patch") != "patch":
        raise DataError(
            f"{folder}: mm_vision_select_feature {said['mm_vision_select_feature']!r} keeps a class token in the grid"
        )
    linear = said.get("mm_projector_type") == "linear"
    places = {
        "model.mm_projector.": ("connector", "0." if linear else ""),
        "model.vision_tower.vision_tower.vision_model.": ("vision", ""),
        "model.vision_tower.vision_tower.": ("vision", ""),
        "model.": ("llm", "@."),
        "lm_head.": ("llm", "lm_head."),
    }
    parts = _sort(folder, read_tensors(folder), places)
    config = {k: v for k, v in said.items() if not OF_THE_WHOLE.match(k)}
    if text == "stablelm":
        config = {STABLELM.get(k, k): v for k, v in config.items()}
    tower = str(said["mm_vision_tower"])
    return Published(
        layout="Bunny" if kind.startswith("bunny") else "LLaVA",
        llm_hub=_hub(said.get("_name_or_path")),
        llm_config=cast(PretrainedConfig, AutoConfig.for_model(text, **config)),
        llm=parts["llm"],
        vision_hub=_hub(tower),
        vision_config=None,
        vision=parts["vision"],
        layer=int(said.get("mm_vision_select_layer", -2)),
        # The family drops a class token where there is one: CLIP has it, SigLIP does not.
        prefix=0 if "siglip" in tower.lower() else 1,
        depth=_connector_depth(folder, said.get("mm_projector_type", "linear")),
        connector=parts["connector"],
        head_bias=False,
        aspect=_aspect(folder, said),
    )


def _connector_depth(folder: Path, kind: object) -> int:
    if kind == "linear":
        return 1
    if found := re.fullmatch(r"mlp(\d+)x_gelu", str(kind)):
        return int(found[1])
    raise DataError(f"{folder}: connector {kind!r} cannot be imported; known: linear and mlp2x_gelu, mlp3x_gelu, …")


def _config_of(folder: Path, key: str, said: object) -> PretrainedConfig:
    if not isinstance(said, dict) or "model_type" not in said:
        raise DataError(f"{folder}/config.json: {key} with its model_type is missing; download the file again")
    kind = said["model_type"]
    try:
        return cast(PretrainedConfig, AutoConfig.for_model(**{k: v for k, v in said.items() if k != "auto_map"}))
    except ValueError:
        raise DataError(
            f"{folder}: {key} is of {kind!r}, which transformers does not have; it cannot be imported"
        ) from None


def _counted_from_the_end(layer: int, blocks: int) -> int:
    """A `vision_feature_layer`, which counts hidden states (0: the embeddings), from the end: -1 is the last one."""
    return layer if layer < 0 else layer - blocks - 1


def _aspect(folder: Path, said: Mapping[str, Any]) -> Literal["square", "pad"]:
    aspect = said.get("image_aspect_ratio") or "square"
    if aspect not in ("square", "pad"):
        raise DataError(f"{folder}: image_aspect_ratio {aspect!r} makes several pictures of one; known: square, pad")
    return cast(Literal["square", "pad"], aspect)


def _processor_says(folder: Path, key: str) -> bool:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            said = json.loads((folder / name).read_text())
            return bool(said.get("image_processor", said).get(key))
    return False


def _hub(name: object) -> str | None:
    """A hub id, without TinyLLaVA's `mof:` marks; a local path of whoever trained the model says nothing."""
    if not isinstance(name, str) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None
    return name
