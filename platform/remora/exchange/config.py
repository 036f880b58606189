"""Read a published config.json key by key: types are checked, and no key that affects prompts or features is
ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from remora.errors import DataError, first_line

LARGEST = {"num_hidden_layers": 1000, "num_local_experts": 1000, "num_experts": 1000}
"""Maximum values of keys that count modules: more than any published model has means a broken file."""
NOTHING = re.compile(
    r"tune_|freeze_|mm_tunable_parts$|mm_projector_lr$|mm_vision_tower_lr$|vision_tower_lr$|pretrain_mm_mlp_adapter$|"
    r"use_mm_proj$|mm_hidden_size$|tokenizer_|image_grid_pinpoints$|image_crop_resolution$|image_split_resolution$|"
    r"image_token_index$|ignore_index$|continuous_training$|mm_use_im_patch_token$|auto_map$|architectures$|"
    r"quantization_config$|cache_dir$|resampler_hidden_size$|num_queries$|num_resampler_layers$|"
    r"transformers_version$|torch_dtype$|dtype$|_name_or_path$|model_type$|unfreeze_|group_by_|bits$"
)
"""Keys of the LLaVA family that do not affect prompts or features of a trained model: training settings, padding, sizes
that the tensors have, how it was loaded. `<im_patch>` is in the vocabulary but never used."""
OF_THE_WHOLE = re.compile(
    r"mm_|image_|vision_|use_s2$|s2(_|$)|moe(_|$)|use_mm|has_vision|connector_|" + NOTHING.pattern
)
"""Keys of a LLaVA-style config that are not the language model's."""
MARKS = "its prompts have <im_start> and <im_end> around every picture, which no template here writes"
SEVERAL = "makes several pictures of one"
RULES: dict[str, tuple[tuple[object, ...], str]] = {
    "mm_use_im_start_end": ((False,), MARKS),
    "image_aspect_ratio": (("square", "pad"), SEVERAL),
    "mm_patch_merge_type": (("flat",), "puts a token of its own between the rows or behind the features of a picture"),
    "mm_vision_select_feature": (("patch",), "keeps a class token in the grid"),
    "mm_resampler_type": ((), "has a resampler before its connector"),
    "mm_spatial_pool_mode": ((), "pools its features"),
    "mm_spatial_pool_stride": ((1,), "pools its features"),
    "mm_compact_visual_tokens": ((False,), "merges its features"),
    "mm_tokenizer_type": ((), "reads pictures otherwise than by an encoder and a connector"),
    "use_s2": ((False,), "reads several scales (S2); only single-scale towers can be imported"),
    "s2": ((False,), "reads several scales (S2); only single-scale towers can be imported"),
    "moe": ((), "has experts in its language model that transformers does not have"),
    "moe_enable": ((False,), "has experts in its language model that transformers does not have"),
    "vision_model_name_or_path2": ((), "mixes the features of two encoders"),
}
"""Keys that affect prompts or features -> (values that equal Remora's behaviour, as empty ones always do; why others
are refused)."""
TRAINED_TOWER = ("unfreeze_mm_vision_tower", "unfreeze_vision_tower", "tune_vision_tower", "tune_entire_model")


class PublishedConfig:
    """The keys of a config.json.

    Raises:
        DataError: a key affects prompts or features in an unsupported way.
    """

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.folder, self.config = folder, config
        for key, (known, why) in RULES.items():
            value = config.get(key)
            if value and not any(type(value) is type(k) and value == k for k in known):
                raise DataError(
                    f"{folder}: {key} {shown(value)}: the checkpoint {why}"
                    if why != MARKS
                    else f"{folder}: {key}: {why}"
                )

    def __contains__(self, key: str) -> bool:
        return key in self.config

    def wrong(self, key: str, wanted: str) -> DataError:
        return DataError(
            f"{self.folder}/config.json: {key} {shown(self.config.get(key))} is not {wanted}; check the file"
        )

    def word(self, key: str, default: str) -> str:
        """A string; `default` if the key is missing."""
        value = self.config.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a name")
        return value

    def layer(self, key: str) -> int:
        """The feature layer (default -2): an index into the hidden states, negative from the end."""
        value = self.config.get(key, -2)
        if isinstance(value, list):
            raise DataError(f"{self.folder}: {key} {shown(value)} reads several layers; only one is supported")
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST["num_hidden_layers"]:
            raise self.wrong(key, "a layer's number")
        return value

    def nested(self, key: str) -> PretrainedConfig:
        """A nested transformers config."""
        value = self.config.get(key)
        if not isinstance(value, dict) or not isinstance(value.get("model_type"), str):
            raise DataError(f"{self.folder}/config.json: {key} with its model_type is missing; download the file again")
        return build_config(self.folder, key, value["model_type"], value)

    def tower(self) -> PretrainedConfig:
        """The vision encoder's config, with the sizes that a square of patches needs."""
        config = self.nested("vision_config")
        for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size"):
            value = getattr(config, key, None)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DataError(
                    f"{self.folder}/config.json: vision_config has {key} {shown(value)}, not a number above 0"
                )
        return config

    def aspect(self) -> Literal["square", "pad"]:
        return "pad" if self.config.get("image_aspect_ratio") == "pad" else "square"

    def trained_tower(self) -> str | None:
        """The key that says that the encoder was trained, or None."""
        tuned = self.config.get("mm_tunable_parts")
        if isinstance(tuned, str) and "mm_vision_tower" in tuned:
            return "mm_tunable_parts"
        return next((key for key in TRAINED_TOWER if self.config.get(key) is True), None)


def build_config(where: Path, what: str, kind: str, values: dict[str, object]) -> PretrainedConfig:
    """A transformers config of model type `kind`, with its sizes checked.

    Raises:
        DataError: transformers does not have that type, or rejects the values.
    """
    values = {k: v for k, v in values.items() if k not in ("auto_map", "quantization_config", "model_type")}
    for key, value in values.items():
        most = LARGEST.get(key, 1 << 24)
        if key.startswith("num_") or key.endswith("_size"):
            sizes = value if isinstance(value, list) else [value]
            if any(isinstance(v, int) and not isinstance(v, bool) and not 0 <= v <= most for v in sizes):
                raise DataError(f"{where}: {what} has {key} {shown(value)}, which no model has; check its config.json")
    try:
        config = AutoConfig.for_model(kind, **values)
    except Exception as e:  # transformers has its own validation errors, and some configs compute with their values
        if kind not in CONFIG_MAPPING:
            raise DataError(
                f"{where}: {what} is of {kind[:60]!r}, which transformers does not have; it cannot be imported"
            ) from None
        raise DataError(f"{where}: {what} makes no {kind}: {first_line(e)}; check its config.json") from e
    return config


def shown(value: object) -> str:
    """A value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
