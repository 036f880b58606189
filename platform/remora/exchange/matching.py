"""Match a published checkpoint to catalog entries: by the hub ids that it names, else by equal architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig

from remora import catalog
from remora.catalog import LLM, Connector, Vision
from remora.errors import DataError
from remora.exchange.layouts import PublishedCheckpoint

NOT_ARCHITECTURE = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "use_cache", "return_dict"),
    *(
        "is_encoder_decoder",
        "output_hidden_states",
        "output_attentions",
        "problem_type",
        "id2label",
        "label2id",
        "chunk_size_feed_forward",
    ),
    *("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "max_window_layers"),
    *("initializer_range", "initializer_factor", "attention_dropout", "resid_pdrop", "embd_pdrop", "hidden_dropout"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate", "classifier_dropout", "pretraining_tp"),
    *("vision_use_head", "projection_dim", "out_features", "out_indices", "stage_names", "num_hidden_layers"),
}
"""Keys that do not affect a forward pass, or that are compared separately (blocks)."""
MEAN_STD = {
    "clip_vision_model": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], "crop"),
    "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "crop"),
}
"""Mean and deviation of the published encoders of that type (preprocessor_config.json); SigLIP's are 0.5."""


def architecture(config: PretrainedConfig) -> dict[str, object]:
    """The keys of a config that decide the model: those of its class, without `NOT_ARCHITECTURE`."""
    known = type(config)().to_dict()  # a checkpoint's config.json may have other keys
    return {k: v for k, v in config.to_dict().items() if k in known and k not in NOT_ARCHITECTURE and v is not None}


def differences(ours: PretrainedConfig, theirs: PretrainedConfig) -> list[str]:
    """`key ours != theirs` for every key in which two architectures differ."""
    a, b = architecture(ours), architecture(theirs)
    return [f"{k} {a.get(k)!r} != {b.get(k)!r}" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def match_vision(found: PublishedCheckpoint) -> str:
    """Name of the catalog encoder that equals the checkpoint's tower.

    Raises:
        DataError: there is none; the error's note is the entry to add.
    """
    fitting: dict[str, str] = {}
    for name, entry in catalog.listed(Vision).items():
        if not reasons_against_vision(entry, found):
            # If an encoder has several sizes, the first is its publisher's; the checkpoint's config does not tell.
            fitting.setdefault(repr((entry.hub, entry.config, entry.layer, entry.prefix)), name)
    return _one("vision", [*fitting.values()], found.vision_hub, lambda: _vision_entry(found))


def reasons_against_vision(entry: Vision, found: PublishedCheckpoint) -> list[str]:
    """Why a catalog encoder is not the checkpoint's tower; empty if it is."""
    if entry.loader != "transformers":
        return [f"loader {entry.loader}"]
    said = [f"scales {list(entry.scales)}"] if entry.scales else []
    if entry.interpolated:
        said.append(f"read at {entry.image_size} px")
    if entry.prefix != found.prefix:
        said.append(f"prefix {entry.prefix} != {found.prefix}")
    config = found.vision_config
    if config is None:
        if entry.hub != found.vision_hub:
            said.append(f"hub {entry.hub} != {found.vision_hub}")
        theirs = found.layer if found.layer < 0 else found.layer - entry.blocks - 1
        if entry.layer != theirs:
            said.append(f"layer {entry.layer} != {theirs}")
        return said
    if entry.config["model_type"] != config.model_type:
        return [*said, f"model_type {entry.config['model_type']} != {config.model_type}"]
    theirs = config.num_hidden_layers + found.layer + 1
    if entry.blocks_read != theirs:
        said.append(f"reads {entry.blocks_read} blocks != {theirs}")
    return said + differences(AutoConfig.for_model(**entry.config), config)


def match_llm(found: PublishedCheckpoint) -> str:
    """Name of the catalog language model that equals the checkpoint's.

    Raises:
        DataError: there is none, or several of that architecture.
    """
    fitting = [name for name, entry in catalog.listed(LLM).items() if not reasons_against_llm(entry, found)]
    # Of two that differ only in the head's bias, prefer the layout's; the other is equivalent with a bias of zeros.
    same = [name for name in fitting if catalog.llm(name).head_bias is (None if found.head_bias else False)]
    fitting = same or fitting
    if not found.llm:
        # Equal shapes are not equal weights, and these are the hub's, so the checkpoint must name them.
        named = [name for name in fitting if found.llm_hub and catalog.llm(name).hub == found.llm_hub]
        if fitting and not named:
            raise DataError(
                f"llm: the checkpoint leaves the language model at {found.llm_hub or 'a folder of its own'}, which no "
                f"entry of the catalog names; of its architecture are {', '.join(fitting)}: choose with --llm NAME"
            )
    return _one("llm", fitting, found.llm_hub, lambda: _llm_entry(found))


def reasons_against_llm(entry: LLM, found: PublishedCheckpoint) -> list[str]:
    """Why a catalog language model is not the checkpoint's; empty if it is."""
    said = ["unpublished"] if entry.unpublished else []
    if entry.layers != found.llm_config.num_hidden_layers:
        said.append(f"num_hidden_layers {entry.layers} != {found.llm_config.num_hidden_layers}")
    if entry.config["model_type"] != found.llm_config.model_type:
        return [*said, f"model_type {entry.config['model_type']} != {found.llm_config.model_type}"]
    return said + differences(AutoConfig.for_model(**entry.config), found.llm_config)


def match_connector(depth: int) -> str:
    """Name of the connector of `depth` linear layers.

    Raises:
        DataError: the catalog has none.
    """
    for name, entry in catalog.listed(Connector).items():
        if (entry.kind, entry.depth) == ("mlp", depth):
            return name
    facts = {
        "short": f"mlp{depth}",
        "kind": "mlp",
        "depth": depth,
        "source": f"{depth} linear layers with GELU between",
    }
    raise _missing("connectors", {f"mlp{depth}x_gelu": facts})


def _one(kind: str, fitting: list[str], hub: str | None, entry: Callable[[], Mapping[str, object]]) -> str:
    named = [name for name in fitting if hub and getattr(catalog.entries(kind)[name], "hub", None) == hub]
    best = named or fitting
    if len(best) == 1:
        return best[0]
    if best:
        raise DataError(
            f"{kind}: {', '.join(best)} are all of the checkpoint's architecture; choose: --{kind} {best[0]}"
        )
    raise _missing(kind, entry())


def _missing(kind: str, entry: Mapping[str, object]) -> DataError:
    (name,) = entry
    error = DataError(
        f"the catalog has no {kind} of the checkpoint's architecture ({name}); "
        f"put the entry printed above into {kind}.yaml of a folder, check what a checkpoint does not tell, "
        "and name the folder in REMORA_CATALOG"
    )
    error.add_note(yaml.safe_dump(dict(entry), sort_keys=False, width=110))
    return error


def _facts(config: PretrainedConfig) -> dict[str, object]:
    """The config of a catalog entry, as plain YAML values."""
    also = ("num_hidden_layers", "vocab_size", "max_position_embeddings")
    facts = {"model_type": config.model_type} | {k: v for k in also if (v := getattr(config, k, None)) is not None}
    return yaml.safe_load(yaml.safe_dump(facts | architecture(config), sort_keys=False))


def _parameters(auto: Any, config: PretrainedConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in auto.from_config(config).parameters())


def _name(hub: str | None, config: PretrainedConfig) -> str:
    return hub.rpartition("/")[2].lower() if hub else f"{config.model_type.replace('_', '-')}-{config.hidden_size}"


def _vision_entry(found: PublishedCheckpoint) -> dict[str, object]:
    config = found.vision_config
    if config is None:
        hub = found.vision_hub or "?"
        facts: dict[str, object] = {"short": hub.rpartition("/")[2], "loader": "transformers", "hub": hub}
        facts["config"] = {"model_type": f"see huggingface.co/{hub}/blob/main/config.json"}
        return {hub.rpartition("/")[2].lower(): facts | {"layer": found.layer, "prefix": found.prefix}}
    name = _name(found.vision_hub, config)
    grid = (config.image_size // config.patch_size) ** 2
    # Every tower with a class token drops it; SigLIP has none, so a patch is dropped there.
    classes = 0 if config.model_type == "siglip_vision_model" else 1
    mean, std, fit = MEAN_STD.get(config.model_type, ([0.5] * 3, [0.5] * 3, "stretch"))
    tokens = grid + classes - found.prefix
    return {
        name if tokens == grid else f"{name}-{tokens}": {
            "short": name,
            "loader": "transformers",
            "hub": found.vision_hub or "?",
            "config": _facts(config),
            "image_size": config.image_size,
            "tokens": tokens,
            "width": config.hidden_size,
            "blocks": config.num_hidden_layers,
            "layer": found.layer,
            "prefix": found.prefix,
            "mean": mean,
            "std": std,
            "fit": fit,
            "parameters": _parameters(AutoModel, config),
            "licence": "unknown",
            "source": f"config.json of an imported {found.layout} checkpoint",
        }
    }


def _llm_entry(found: PublishedCheckpoint) -> dict[str, object]:
    name = _name(found.llm_hub, found.llm_config)
    return {
        name: {
            "short": name,
            "loader": "transformers",
            "hub": found.llm_hub or "?",
            "config": _facts(found.llm_config),
            "parameters": _parameters(AutoModelForCausalLM, found.llm_config),
            "licence": "unknown",
            "source": f"config.json of an imported {found.layout} checkpoint",
        }
    }
