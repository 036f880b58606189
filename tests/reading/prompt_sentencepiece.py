"""Language models that ship only `tokenizer.model`, and sentencepiece's own tokenisation.

`folder` writes the files of Vicuna's, MobileLLaMA's or TinyLlama's repository: a model of sentencepiece, trained here,
and a tokenizer_config.json. `Slow` is the published code's tokenizer, transformers 4's LlamaTokenizer in Python:
special tokens are cut out, and the pieces between them go to sentencepiece. With `legacy` each piece gets a
leading space; without, only the first, and that space is dropped if a special token begins the text.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from prompt_tokenizers import TEXTS
from sentencepiece import sentencepiece_model_pb2 as proto

SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
OF_LLAMA = {
    **{"▁▁": 259, "▁A": 319, "ST": 1254, "SS": 1799, "AN": 2190, "IST": 9047, "ANT": 13566, "ASS": 22933},
    **{"▁": 29871, ":": 29901, "I": 29902, "S": 29903, "A": 29909, "T": 29911, "N": 29940},
}
"""Ids of Llama's own tokenizer; a piece's score falls with its id, as there."""


def trained() -> bytes:
    """A model with Llama's settings: BPE with bytes, digits apart, spaces kept, runs of them as pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, "a  b   c    d  e  USER:  ASSISTANT:   \t"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    return model.getvalue()


def with_llamas_ids() -> bytes:
    """`trained` with the pieces of Llama's tokenizer that ` ASSISTANT:` is made of, at their own ids."""
    model = proto.ModelProto.FromString(trained())
    names = {i: piece for piece, i in OF_LLAMA.items()}
    kept = [p for p in model.pieces if p.type != proto.ModelProto.SentencePiece.NORMAL]  # unknown, control, 256 bytes
    del model.pieces[:]
    model.pieces.extend(kept)
    for i in range(len(kept), 32000):
        model.pieces.add(piece=names.get(i, f"\ue000{i}"), score=float(259 - i))
    return model.SerializeToString()


def folder(where: Path, model: bytes, legacy: bool | None) -> Path:
    """What such a model's repository holds; `legacy` is left out where it is None, as before transformers 4.31."""
    where.mkdir(parents=True)
    (where / "tokenizer.model").write_bytes(model)
    about = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    about |= {"add_bos_token": True, "add_eos_token": False} | ({} if legacy is None else {"legacy": legacy})
    (where / "tokenizer_config.json").write_text(json.dumps(about))
    return where


@dataclass(frozen=True)
class Encoded:
    ids: list[int]


class Slow:
    """transformers 4's LlamaTokenizer with `use_fast=False`; `names` are its special tokens under other names."""

    def __init__(self, model: bytes, legacy: bool, names: Mapping[str, str], added: Mapping[str, int]) -> None:
        ids = SPECIAL | dict(added)
        self.special = {names.get(token, token): i for token, i in ids.items()}
        self.pattern = re.compile("(" + "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) + ")")
        self.legacy = legacy
        self.prefixing = sentencepiece.SentencePieceProcessor(model_proto=model)
        bare = proto.ModelProto.FromString(model)
        bare.normalizer_spec.add_dummy_prefix = False
        self.bare = sentencepiece.SentencePieceProcessor(model_proto=bare.SerializeToString())

    def encode(self, text: str, add_special_tokens: bool) -> Encoded:
        ids = [SPECIAL["<s>"]] if add_special_tokens else []
        for number, stretch in enumerate(self.pattern.split(text)):
            if stretch in self.special:
                ids.append(self.special[stretch])
            elif stretch and self.legacy:
                ids += self.prefixing.encode(stretch)
            elif stretch:
                ids += self.bare.encode(" " + stretch if number == 0 else stretch)
        return Encoded(ids)


def added_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens beside sentencepiece's own, which a template writes."""
    return {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if str(t) not in SPECIAL}
