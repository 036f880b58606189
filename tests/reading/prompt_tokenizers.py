"""Tiny tokenizers of the real classes and pipelines, each with every special token of the templates.

The vocabularies are trained here; pre-tokenizers, normalizers, prefixes, BOS and added tokens are those of the models.
`twin` renames a tokenizer's special tokens to private characters: no text can spell them, ids stay what they were.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers.",
    "USER: What is in the picture? ASSISTANT: a red circle, two cats and a dog; it isn't 1234 567.",
    "user assistant model [INST] <<SYS>> [/INST] yes no\n\nIt is red.\n\tThe picture shows 42 cats!  Two  spaces.",
    "system You are a helpful assistant. Cutting Knowledge Date 26 Jul 2024 \u4f60\u597d h\u00e9llo \U0001f41f",
] * 3
WRITTEN = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPACES = [AddedToken(" " * n, normalized=True, special=False) for n in (4, 3, 2)]


def train(pre_tokenizer: Any, specials: list[str], byte_level: bool, size: int) -> tuple[dict[str, int], list]:
    """(vocabulary, merges), the special tokens first; sentencepiece's 256 bytes after them unless byte-level."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    first = specials if byte_level else [*specials, *(f"<0x{b:02X}>" for b in range(256))]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=first, initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def byte_level(specials: list[str], split: Any = None, regex: bool = True) -> tuple[dict[str, int], list]:
    steps = [split] if split else []
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex))
    return train(pre_tokenizers.Sequence(steps), specials, True, 380)


def sentencepiece(specials: list[str], size: int = 420) -> tuple[dict[str, int], list]:
    """With Llama's `USER` of one token and `▁USER` of two, which LLaVA's mask counts on."""
    vocabulary, merges = train(pre_tokenizers.Metaspace(prepend_scheme="always"), specials, False, size)
    wanted = [("U", "S"), ("E", "R"), ("▁", "US"), ("US", "ER")]
    for left, right in wanted:
        for token in (left, right, left + right):
            vocabulary.setdefault(token, len(vocabulary))
    return vocabulary, [*wanted, *(m for m in merges if m not in wanted)]


def write(tokenizer: PreTrainedTokenizerBase, special: bool = True) -> PreTrainedTokenizerBase:
    """Give it the templates' tokens; not called special, as in some fine-tuned models, if so asked."""
    have = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=special) for t in WRITTEN if t not in have])
    return tokenizer


def vicuna(legacy: bool) -> PreTrainedTokenizerBase:
    vocabulary, merges = sentencepiece(["<unk>", "<s>", "</s>"])
    return write(LlamaTokenizer(vocab=vocabulary, merges=merges, legacy=legacy, pad_token="<unk>", add_bos_token=True))


def tinyllama() -> PreTrainedTokenizerBase:
    """As tokenizer.json has it: the space is a normalizer's, put before every stretch between special tokens."""
    vocabulary, merges = sentencepiece(["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(content=" ", left=1)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return write(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))


def phi3() -> PreTrainedTokenizerBase:
    """Llama's, with role tokens that swallow the spaces after them."""
    tokenizer = vicuna(legacy=True)
    roles = [AddedToken(f"<|{r}|>", normalized=False, special=True, rstrip=True) for r in ("user", "assistant", "end")]
    tokenizer.add_tokens(roles)
    return tokenizer


def gemma() -> PreTrainedTokenizerBase:
    vocabulary, merges = train(
        pre_tokenizers.Metaspace(prepend_scheme="never"), ["<pad>", "<eos>", "<bos>", "<unk>"], False, 420
    )
    return write(GemmaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True))


def phi() -> PreTrainedTokenizerBase:
    """One token for end, start and unknown; runs of spaces as added tokens; spans without their leading space."""
    vocabulary, merges = byte_level(["<|endoftext|>"])
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens(SPACES)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return write(tokenizer)


def pythia() -> PreTrainedTokenizerBase:
    vocabulary, merges = byte_level(["<|endoftext|>", "<|padding|>"])
    tokenizer = GPTNeoXTokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_tokens(SPACES)
    return write(tokenizer, special=False)


def split_byte_level(split: Any, names: dict[str, str], bos: bool = False) -> PreTrainedTokenizerBase:
    specials = list(dict.fromkeys(names.values()))
    vocabulary, merges = byte_level(specials, split, regex=False)
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    if bos:
        first = names["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, vocabulary[first])]
        )
    return write(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names))


def stablelm() -> PreTrainedTokenizerBase:
    """StableLM-2: GPT-4's split, digits in threes, no BOS."""
    split = pre_tokenizers.Split(Regex(GPT4), behavior="removed", invert=True)
    return split_byte_level(split, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})


def llama3() -> PreTrainedTokenizerBase:
    """GPT-4's split, BOS by the post-processor; the instruct model's end token is <|eot_id|>."""
    split = pre_tokenizers.Split(Regex(GPT4), behavior="isolated")
    return split_byte_level(split, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, bos=True)


def smollm2() -> PreTrainedTokenizerBase:
    """Separate digits: the space before a number is a separate token."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    digits = pre_tokenizers.Digits(individual_digits=True)
    vocabulary, merges = byte_level(specials, digits)
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return write(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"))


def qwen2() -> PreTrainedTokenizerBase:
    vocabulary, merges = byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        pre_tokenizers.Split(Regex(GPT4.replace("{1,3}", "")), behavior="isolated"),
        regex=False,
    )
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<|im_start|>", normalized=False, special=True)])
    return write(tokenizer)


MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "vicuna": lambda: vicuna(legacy=False),
    "vicuna-legacy": lambda: vicuna(legacy=True),
    "tinyllama": tinyllama,
    "phi-3": phi3,
    "gemma": gemma,
    "phi": phi,
    "pythia": pythia,
    "stablelm": stablelm,
    "smollm2": smollm2,
    "qwen2": qwen2,
    "llama-3": llama3,
}


def private(token: str) -> str:
    """The name that a special token has in a twin."""
    return "\ue100" + "".join(chr(0xE200 + ord(c)) for c in token) + "\ue101"


def specials_of(tokenizer: PreTrainedTokenizerBase, written: Iterable[str]) -> list[str]:
    """Special tokens and those that a template writes, the longest first."""
    added = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special or t.content in written}
    return sorted(added, key=len, reverse=True)


def twin(tokenizer: PreTrainedTokenizerBase, specials: Iterable[str]) -> Tokenizer:
    """The backend with these special tokens under private names."""
    names = {t: private(t) for t in specials}

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {names.get(k, k): renamed(v) for k, v in value.items()}
        if isinstance(value, list):
            return [renamed(v) for v in value]
        return names.get(value, value) if isinstance(value, str) else value

    return Tokenizer.from_str(json.dumps(renamed(json.loads(tokenizer.backend_tokenizer.to_str()))))
