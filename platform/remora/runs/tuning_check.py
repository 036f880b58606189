"""Check that a variant's stages fit its parts, before any data is read.

This needs only the catalog. torch is imported only if a stage names adapters, whose layers are looked up in the model
(without weights).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from remora import catalog
from remora.catalog import LLM
from remora.catalog.compatibility import check_composition
from remora.errors import SpecError
from remora.spec import PARTS, Stage, Variant

if TYPE_CHECKING:
    from remora.model.vlm import VisionLanguageModel

ROTARY = {
    "gemma",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
}
"""model_types of transformers with rotary positions, which are defined beyond the context too."""


def check_stages(variant: Variant, stages: Sequence[Stage]) -> None:
    """Check that each stage can run on the variant's parts.

    Raises:
        UnknownName: a part, template or benchmark is not in the catalog.
        SpecError: the parts do not make a model, or a stage needs something that they do not have.
    """
    model = catalog.llm(variant.llm)
    embeddings = check_composition(catalog.vision(variant.vision), catalog.connector(variant.connector), model)
    watched = [s.validation.benchmark.name for s in stages if s.validation and s.validation.benchmark]
    for name in (*variant.benchmarks, *watched):
        catalog.check_benchmark(name)
    for stage in stages:
        _check_template(stage, variant.llm, model)
        _check_trains(stage, variant)
        _check_length(stage, model, embeddings)
        if stage.validation and stage.validation.benchmark and "vision" not in stage.tune.present:
            raise SpecError(
                f"stage {stage.name!r} reads only text (vision: absent), so it cannot be asked validate.benchmark "
                f"{stage.validation.benchmark.name!r}; leave that out of this stage"
            )
    for stage in stages:  # last, because it may build the model
        _check_adapters(stage, variant)


def _change(stage: Stage, change: str) -> str:
    return f"overrides: {{{stage.name}: {{{change}}}}}"


def _check_template(stage: Stage, name: str, model: LLM) -> None:
    # A template without special tokens fits every model; others fit models that were trained with their tokens.
    template = catalog.template(stage.template)
    if not (template.tokens or template.chat):
        return
    if model.templates and stage.template not in model.templates:
        raise SpecError(
            f"stage {stage.name!r}: template {stage.template!r} does not fit llm {name!r}, "
            f"which takes {', '.join(model.templates)}; set {_change(stage, 'template: …')}"
        )
    if model.loader == "scratch":
        wants = "a chat template" if template.chat else f"the tokens {', '.join(template.tokens)}"
        raise SpecError(
            f"stage {stage.name!r}: template {stage.template!r} needs {wants} of the tokenizer, and that of llm "
            f"{name!r} is trained from text only; set {_change(stage, 'template: brief')}"
        )
    if template.chat and _has_chat_template(model) is False:
        raise SpecError(
            f"stage {stage.name!r}: template {stage.template!r} is the tokenizer's own, and that of llm {name!r} "
            f"({model.hub}) has none; set {_change(stage, 'template: …')}; see: remora catalog templates"
        )


def _has_chat_template(model: LLM) -> bool | None:
    """Whether a tokenizer in a local folder has a chat template; None if there is no folder."""
    folder = Path(model.hub or "").expanduser()
    if not model.hub or not folder.is_dir():
        return None
    if any(folder.glob("chat_template*")) or (folder / "additional_chat_templates").is_dir():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return None


def _check_trains(stage: Stage, variant: Variant) -> None:
    connector = catalog.connector(variant.connector)
    if connector.kind == "identity" and stage.tune.trained == ("connector",):
        raise SpecError(
            f"stage {stage.name!r} trains only the connector, and {variant.connector!r} has no weights; take a recipe "
            "without that stage, or train another part in it (overrides)"
        )
    vision, layers = catalog.vision(variant.vision), catalog.llm(variant.llm).layers
    for part, blocks, read in (("vision", vision.blocks, vision.blocks_read), ("llm", layers, layers)):
        if stage.tune[part].blocks is not None:
            try:
                stage.tune[part].first_block(part, blocks, read)
            except SpecError as e:
                raise SpecError(f"stage {stage.name!r}: {e}") from None


def _check_length(stage: Stage, model: LLM, embeddings: int) -> None:
    length = stage.length(model.context)
    kind = str(model.config.get("model_type"))
    if stage.past_context and kind not in ROTARY:
        raise SpecError(
            f"stage {stage.name!r}: past_context: true needs a language model with rotary positions, and {kind} is not "
            f"known to have them (known: {', '.join(sorted(ROTARY))}); "
            f"set {_change(stage, 'past_context: false')}, which cuts samples at its {model.context} positions"
        )
    if "vision" in stage.tune.present and stage.count_pictures and embeddings >= length:
        acts = f"max_length {stage.max_length}" if length == stage.max_length else f"the context of {length}"
        raise SpecError(
            f"stage {stage.name!r}: a picture becomes {embeddings} embeddings, and {acts} leaves no room for words; "
            "raise max_length, or take a connector that makes fewer (resampler-128, pixel-shuffle-4)"
        )


def _check_adapters(stage: Stage, variant: Variant) -> None:
    for part in stage.tune.present:
        lora = stage.tune[part].lora
        if lora is None:
            continue
        if lora.bits and variant.cluster.zero == 3:
            raise SpecError(
                f"stage {stage.name!r}: tune.{part}: ZeRO 3 cannot split weights of {lora.bits} bits; set "
                "cluster.zero to 2, or leave lora's bits out"
            )
        if lora.bits and importlib.util.find_spec("bitsandbytes") is None:
            raise SpecError(
                f"stage {stage.name!r}: tune.{part}: bits: {lora.bits} needs bitsandbytes, which is not installed; "
                "next: pip install 'remora[quantized]', or leave bits out"
            )
        if part == "llm" and not lora.targets and variant.llm in catalog.shipped("llm"):
            continue  # all shipped ones have linear layers; a test checks that
        from remora.model.lora import target_layers

        module = _sketch(variant.vision, variant.connector, variant.llm).part(part)
        assert module is not None
        try:
            target_layers(part, module, lora)
        except SpecError as e:
            raise SpecError(f"stage {stage.name!r}: {e}") from None


@cache
def _sketch(vision: str, connector: str, llm: str) -> VisionLanguageModel:
    from remora.model.parts import sketch

    assert PARTS == ("vision", "connector", "llm")
    return sketch(catalog.vision(vision), catalog.connector(connector), catalog.llm(llm))
