"""The folder that vLLM loads a bundle's language model from: the bundle's own one, or one with its adapters merged."""

from __future__ import annotations

import json
from pathlib import Path

from remora.files import exclusive, is_published, publishing
from remora.inference.bundle import read_bundle, weights_digest
from remora.model.llm import full_state, load_llm
from remora.model.lora import merge_adapter
from remora.model.parts import has_head_bias


def language_model_folder(bundle: Path, cache: Path) -> Path:
    """A folder of transformers' layout with the bundle's language model. Written below `cache` only if the model is not
    in such a folder already: if it has adapters, or a head whose bias the bundle drops.

    Raises:
        DataError: no bundle there.
        TornArtifact: its files are not what was published.
    """
    ref = read_bundle(bundle, cache).parts["llm"]
    assert ref.folder is not None
    keeps_bias = has_head_bias(ref.name)
    if not ref.adapters and keeps_bias and _says_its_class(ref.folder):
        return ref.folder
    folder = cache / "vllm" / weights_digest(bundle)[:16]
    with exclusive(folder.with_name(f".{folder.name}.lock")):  # replicas start together
        if is_published(folder):
            return folder
        llm, _ = load_llm(ref.folder, keeps_bias)
        for adapter in ref.adapters:
            merge_adapter(llm, adapter)
        with publishing(folder) as tmp:
            llm.save_pretrained(tmp, state_dict=full_state(llm, llm.state_dict()))
    return folder


def _says_its_class(folder: Path) -> bool:
    return bool(json.loads((folder / "config.json").read_text()).get("architectures"))
