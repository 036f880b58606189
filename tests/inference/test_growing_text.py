"""An answer's pieces are, joined, its text, for tokenizers of every kind; nothing is held back without need."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from remora.inference.text import Detokenizer, GrowingText
from remora.model.llm import train_tokenizer

WORDS = ["▁a", "▁", "b", "▁the", "▁▁", "c.", "é", "▁n't", ".", "\n", "S", "T", "OP", "▁STOP"]


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's kind: a token is bytes, and a character may be spread over several."""
    return train_tokenizer(["a the bc STOP. é n't \n 日本 🐟"] * 3, 300)


def sentence_pieces() -> PreTrainedTokenizerFast:
    """Llama's kind: characters that no token has are runs of byte tokens, and a text loses its first space."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=AddedToken("</s>", special=True))


def metaspace() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *((word, -1.0) for word in WORDS)], 0, False))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=AddedToken("</s>", special=True))


def word_pieces() -> PreTrainedTokenizerFast:
    """BERT's kind: the decoder removes spaces before signs, so text changes after the fact."""
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "</s>", "a", "do", "n", "'", "t", ".", "##s", "STOP"])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=AddedToken("</s>", special=True))


KINDS = (byte_level, sentence_pieces, metaspace, word_pieces)


def answer_of(of: Detokenizer, tokens: list[int], stop: tuple[str, ...]) -> tuple[str, int]:
    """The definition: the text before the first stop text, and how many tokens were said when it was there."""
    for n in range(1, len(tokens) + 1):
        text = of.text(tokens[:n]).lstrip()
        places = [at for at in (text.find(each) for each in stop) if at >= 0]
        if places:
            return text[: min(places)].strip(), n
    return of.text(tokens).strip(), len(tokens)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [(), ("STOP",), ("\n", "STOP.", " the"), ("é",)])
def test_pieces_are_the_whole_text(kind, stop):
    tokenizer, draw = kind(), random.Random(len(stop))
    of, pieces = Detokenizer(tokenizer), 0
    for _ in range(300):
        some = draw.sample(range(len(tokenizer)), min(len(tokenizer), draw.choice((5, 20, 400))))
        tokens = draw.choices(some, k=draw.randrange(1, 60))
        expected, said = answer_of(of, tokens, stop)
        growing = GrowingText(of, stop)
        parts = [growing.add(token) for token in tokens[: said - 1]]
        assert expected.startswith("".join(parts)), (tokens, parts, expected)
        assert "".join(parts) + growing.end(expected) == expected
        pieces += sum(map(bool, parts))
        # Elsewhere, behind the first half: the same pieces follow.
        again = GrowingText(of, stop)
        half = len(parts) // 2
        assert [again.add(token) for token in tokens[: said - 1]][half:] == parts[half:]
    assert pieces > 200 or of.revises


def test_words_come_at_once():
    tokenizer = byte_level()
    tokens = tokenizer("a the bc a 日 STO a")["input_ids"]
    growing, seen = GrowingText(Detokenizer(tokenizer), ("STOP",)), []
    for i, token in enumerate(tokens):
        growing.add(token)
        seen.append((tokenizer.decode(tokens[: i + 1]), growing.released))
    for whole, released in seen:
        held = whole[len(released) :]
        assert held.strip("\ufffd ") in ("", "S", "ST", "STO"), (whole, released)
    assert growing.released == "a the bc a 日 STO a"


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_bytes_of_tokens_are_those_of_the_text(kind):
    tokenizer = kind()
    of, draw = Detokenizer(tokenizer), random.Random(1)
    for end in of.special:
        assert of.bytes_of(end) is None and of.shown(end) == tokenizer.convert_ids_to_tokens(end)
    compared = 0
    for _ in range(400):
        tokens = [t for t in draw.choices(range(len(tokenizer)), k=draw.randrange(1, 6)) if t not in of.special]
        joined = b"".join(of.bytes_of(token) or b"" for token in tokens)
        text = of.text(tokens)
        if "\ufffd" not in text and "<unk>" not in text:
            assert joined.decode().lstrip() == text.lstrip()
            compared += 1
    assert compared > 20
