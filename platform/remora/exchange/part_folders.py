"""Convert a published checkpoint to part folders for `remora.model.parts.compose`, with strict loading."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from remora import catalog
from remora.errors import DataError
from remora.exchange.held import floating_type
from remora.exchange.layouts import PublishedCheckpoint
from remora.exchange.tower import cut_config, cut_state, load_strictly, module_of, outline_of
from remora.model.blocks import token_table
from remora.model.connectors import build_connector
from remora.model.llm import load_tokenizer
from remora.model.parts import WEIGHTS
from remora.model.refs import PartRef
from remora.model.vision import build_tower

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""Files that a tokenizer may consist of; never code."""


def write_parts(source: Path, found: PublishedCheckpoint, names: Mapping[str, str], folder: Path) -> dict[str, PartRef]:
    """Write the checkpoint's parts below `folder`; `names` are their catalog names.

    A tower or language model whose weights are not in the checkpoint stays a reference to the hub.

    Raises:
        DataError: a tensor is unknown, missing or of another shape, or the tokenizer does not fit the vocabulary.
    """
    if found.llm:
        _write_llm(source, found, folder / "llm")
    _write_connector(found, names, folder / "connector")
    if found.vision:
        _write_vision(found, names["vision"], folder / "vision")
    return {p: PartRef(n, folder / p if (folder / p).is_dir() else None) for p, n in names.items()}


def _write_llm(source: Path, found: PublishedCheckpoint, folder: Path) -> None:
    outline = outline_of(AutoModelForCausalLM, found.llm_config, "language model")
    state = {
        f"{outline.base_model_prefix}.{k[2:]}" if k.startswith("@.") else k: tensor for k, tensor in found.llm.items()
    }
    head = outline.get_output_embeddings()
    if head.bias is not None and not found.head_bias:
        state.setdefault("lm_head.bias", torch.zeros(head.bias.shape, dtype=floating_type(state)))
    if found.llm_config.tie_word_embeddings:
        _drop_copy(state)
    model = load_strictly(AutoModelForCausalLM, found.llm_config, state, "language model")
    model.save_pretrained(folder)
    held = (where for where in found.tokenizers if any((where / name).is_file() for name in VOCABULARIES))
    tokenizer_folder = next(held, source)
    for name in TOKENIZER:
        if (tokenizer_folder / name).is_file():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    try:
        tokenizer = load_tokenizer(folder)
    except DataError as e:
        raise DataError(str(e).replace(str(folder), str(tokenizer_folder))) from e
    rows = len(token_table(model))
    if len(tokenizer) > rows:
        raise DataError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model {rows}; they are of two models"
        )


def _drop_copy(state: dict[str, Tensor]) -> None:
    """Drop a tied head that is stored in addition to its embeddings; it must be equal."""
    for name in [n for n in state if n in ("lm_head.weight", "embed_out.weight")]:
        copy = state.pop(name)
        if not any(torch.equal(copy, t) for k, t in state.items() if "embed" in k and t.shape == copy.shape):
            raise DataError(
                f"language model: config.json ties the head to the embeddings, but {name} differs from them"
            )


def _write_connector(found: PublishedCheckpoint, names: Mapping[str, str], folder: Path) -> None:
    width, hidden = catalog.vision(names["vision"]).width, found.llm_config.hidden_size
    with torch.device("meta"):
        connector = build_connector(catalog.connector(names["connector"]), width, hidden)
    wanted = {k: tuple(v.shape) for k, v in connector.state_dict().items()}
    have = {k: tuple(v.shape) for k, v in found.connector.items()}
    if wanted != have:
        name = sorted(k for k in wanted.keys() | have.keys() if wanted.get(k) != have.get(k))[0]
        raise DataError(
            f"connector: {name} is {have.get(name, 'missing')} in the checkpoint, {wanted.get(name, 'unknown')} in "
            f"{names['connector']} between {names['vision']} and this language model"
        )
    folder.mkdir(parents=True)
    save_file({k: v.float().contiguous() for k, v in found.connector.items()}, folder / WEIGHTS)


def _write_vision(found: PublishedCheckpoint, name: str, folder: Path) -> None:
    entry = catalog.vision(name)
    config = cut_config(found.vision_config or AutoConfig.for_model(**entry.config), entry.blocks_read)
    held = cut_state(config, found.vision)
    whole = load_strictly(AutoModel, config, held, "vision tower", torch.float32).state_dict()
    tower = build_tower(entry, pretrained=False)
    net = module_of(tower)
    net.load_state_dict({k: whole[k] for k in net.state_dict()})
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, folder / WEIGHTS)
