"""Compose a model from parts on disk, and save its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from remora import catalog
from remora.catalog import LLM, Connector, Vision
from remora.catalog.compatibility import check_composition
from remora.errors import DataError, SpecError
from remora.model.connectors import build_connector, tokens_out
from remora.model.llm import drop_head_bias, full_state, load_llm
from remora.model.lora import merge_adapter, save_adapter
from remora.model.refs import PartRef
from remora.model.seeds import seed_for
from remora.model.split import load, split_like
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.spec import PARTS, Lora

WEIGHTS = "model.safetensors"


def compose(
    parts: Mapping[str, PartRef], seed: int, present: tuple[str, ...] = PARTS
) -> tuple[VisionLanguageModel, PreTrainedTokenizerBase]:
    """Build the model (fp32) from its parts; a connector without a folder is initialised from `seed`.

    If the language model is loaded sharded over ranks (`training.engines.loading`), the other parts are sharded too.

    Raises:
        DataError: the folder of a part does not exist.
    """
    for part in present:
        for folder in filter(None, (parts[part].folder, *parts[part].adapters)):
            if not folder.is_dir():
                raise DataError(
                    f"{part} {parts[part].name}: {folder} does not exist; a stage run's parts exist once it is "
                    "trained, and `remora train SPEC` trains all that a variant needs, in order"
                )
    llm_ref = parts["llm"]
    assert llm_ref.folder is not None, "the llm part has a folder before a model is built"
    llm, tokenizer = load_llm(llm_ref.folder, has_head_bias(llm_ref.name))
    _merge(llm, llm_ref)
    vision = connector = None
    image_size = image_tokens = 0
    if "vision" in present:
        encoder = catalog.vision(parts["vision"].name)
        vision = build_tower(encoder, pretrained=parts["vision"].folder is None)
        split_like(vision, llm)
        _load(vision, parts["vision"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "connector"))
            entry = catalog.connector(parts["connector"].name)
            connector = build_connector(entry, encoder.width, llm.config.hidden_size)
        split_like(connector, llm)
        _load(connector, parts["connector"])
        image_size, image_tokens = encoder.input_size, tokens_out(entry, encoder.tokens)
    return VisionLanguageModel(llm, vision, connector, image_size, image_tokens), tokenizer


def sketch(vision: Vision | None, connector: Connector | None, llm: LLM, device: str = "meta") -> VisionLanguageModel:
    """The model without weights, on torch's meta device, to count parameters without using memory.

    Args:
        vision, connector: None in a text-only stage.
        device: "cpu" in torch's fake mode, whose tensors have no memory either, but choose kernels as real ones do.

    Raises:
        SpecError: no model can be built from the language model's config.
    """
    with torch.device(device):
        try:
            language = AutoModelForCausalLM.from_config(AutoConfig.for_model(**llm.config))
        except Exception as e:  # config classes raise all kinds of errors for the values of a user's entry
            why = (str(e).strip().splitlines() or [type(e).__name__])[-1].strip()
            raise SpecError(f"llm {llm.short}: cannot build its config: {why}; see: remora catalog llm") from e
        language.tie_weights()  # not done where initialisation is left out
        if llm.head_bias is False:
            drop_head_bias(language)
        if vision is None or connector is None:
            return VisionLanguageModel(language, None, None, 0, 0)
        return VisionLanguageModel(
            language,
            build_tower(vision, pretrained=False),
            build_connector(connector, vision.width, llm.hidden),
            vision.input_size,
            check_composition(vision, connector, llm),
        )


def has_head_bias(name: str) -> bool:
    """Whether the language model of that name keeps its head's bias, if its class has one."""
    return name not in catalog.entries("llm") or catalog.llm(name).head_bias is not False


def count_connector(entry: Connector, width: int, hidden: int) -> int:
    """Number of parameters of a connector from tokens of `width` channels to embeddings of `hidden` channels."""
    with torch.device("meta"):
        return sum(p.numel() for p in build_connector(entry, width, hidden).parameters())


def count_llm(entry: LLM) -> tuple[int, int]:
    """(parameters of a language model, parameters of its embedding table and output head, once if tied)."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    if entry.head_bias is False:
        drop_head_bias(model)
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    at_ends = {id(p): p.numel() for m in ends for p in m.parameters()}
    return sum(p.numel() for p in model.parameters()), sum(at_ends.values())


def _load(module: nn.Module, ref: PartRef) -> None:
    if ref.folder is not None:
        load(module, load_file(ref.folder / WEIGHTS))
    _merge(module, ref)


def _merge(module: nn.Module, ref: PartRef) -> None:
    for adapter in ref.adapters:
        merge_adapter(module, adapter)


def save_parts(model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write every part of a model that is not sharded, each to a folder of its name below `folder`."""
    for part in PARTS:
        module = model.part(part)
        assert module is not None
        save_part(part, model, module.state_dict(), tokenizer, folder / part)


def save_part(
    part: str,
    model: VisionLanguageModel,
    state: Mapping[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    lora: Lora | None = None,
) -> None:
    """Write one part; `state` has its weights by the part's names (gathered under ZeRO 3).

    With `lora`, `state` has the adapter's tensors, and only they are written.
    """
    folder.mkdir(parents=True)
    module = model.part(part)
    assert module is not None
    if lora:
        save_adapter(state, lora, folder)
    elif part == "llm":
        module.save_pretrained(folder, state_dict=full_state(module, state))  # type: ignore[operator, arg-type]
        tokenizer.save_pretrained(folder)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)
