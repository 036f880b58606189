"""From turns to token ids and label masks.

Masks come from the character spans of the template, mapped through the tokenizer's own offsets. Nothing is tokenised
twice and counted, which is how the LLaVA family loses whole samples to "tokenization mismatch". What a turn says is
tokenised with special tokens split, so no text can forge an end token or a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from remora.catalog import Template
from remora.data.conversation import Turn
from remora.errors import SpecError
from remora.model.vlm import IGNORE, IMAGE


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation: words, one special token (`token`), or one picture."""

    text: str = ""
    token: bool = False
    image: bool = False
    supervised: bool = False


@dataclass(frozen=True)
class Tokens:
    """ids with IMAGE at picture positions; labels with IGNORE where there is no loss. Equal lengths."""

    ids: list[int]
    labels: list[int]


def _split_tokens(text: str, specials: Sequence[str], supervised: bool) -> list[Piece]:
    """Cut template text (never a turn's words) at the special tokens it writes."""
    for special in specials:
        if special in text:
            before, after = text.split(special, 1)
            return [
                *_split_tokens(before, specials, supervised),
                Piece(special, token=True, supervised=supervised),
                *_split_tokens(after, specials, supervised),
            ]
    return [Piece(text, supervised=supervised)] if text else []


def render(template: Template, turns: Sequence[Turn], stop: str) -> list[Piece]:
    """The conversation in the template's words; it ends where the next answer starts if the last turn is the user's."""
    specials = (*template.tokens, stop)
    out = _split_tokens(template.system, specials, False)
    for turn in turns:
        if turn.role == "user":
            before, after = template.user.split("{image}", 1)
            between, words, rest = after.partition("{text}")  # `plain` has no {text}: the caption's prompt is unused
            out += _split_tokens(before, specials, False)
            for _ in range(turn.images):
                out += [Piece(image=True), *_split_tokens(template.image_suffix, specials, False)]
            out += _split_tokens(between, specials, False)
            if words:
                out += [Piece(turn.text), *_split_tokens(rest, specials, False)]
        else:
            before, after = template.assistant.replace("{eos}", stop).split("{text}", 1)
            ending, end, rest = after.partition(stop)
            # The space before the answer is the model's to write, alone ("Ġ", "4", "2") or in the first word.
            head = before.rstrip(" ")
            out += _split_tokens(head, specials, False)
            out.append(Piece(before[len(head) :] + turn.text, supervised=True))
            out += _split_tokens(ending + end, specials, True) + _split_tokens(rest, specials, False)
    if turns and turns[-1].role == "user":
        # No trailing space: most tokenizers put it into the answer's first token, so it belongs to the answer.
        out += _split_tokens(template.assistant.split("{text}", 1)[0].rstrip(" "), specials, False)
    return out


def rendered_words(template: Template, turns: Sequence[Turn]) -> str:
    """The conversation as text without special tokens and pictures: what a new tokenizer learns from."""
    stop = template.stop or "\0"  # stands for the end token that the tokenizer does not have yet
    return "".join(p.text for p in render(template, turns, stop) if not p.token)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one special token, which the tokenizer is known to have."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


class Prompter:
    """Renders conversations with one template for one tokenizer."""

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, image_tokens: int) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        self.stop = template.stop or str(tokenizer.eos_token)
        for token in (*template.tokens, self.stop):
            if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
                raise SpecError(
                    f"the template writes {token!r}, which the tokenizer does not have; "
                    "choose another: remora catalog templates"
                )
        self._bos: list[int] = tokenizer("")["input_ids"]  # what the tokenizer itself puts first: a BOS or nothing

    def encode(self, turns: Sequence[Turn]) -> Tokens:
        """ids and labels of a conversation, picture positions expanded to `image_tokens`."""
        ids = list(self._bos)
        labels = [IGNORE] * len(ids)
        run: list[Piece] = []
        for piece in [*render(self.template, turns, self.stop), Piece(token=True)]:
            if not (piece.token or piece.image):
                run.append(piece)
                continue
            self._flush(run, ids, labels)
            run = []
            if piece.image:
                ids += [IMAGE] * self.image_tokens
                labels += [IGNORE] * self.image_tokens
            elif piece.text:
                ids.append(token_id(self.tokenizer, piece.text))
                labels.append(ids[-1] if piece.supervised else IGNORE)
        return Tokens(ids, labels)

    def _flush(self, run: list[Piece], ids: list[int], labels: list[int]) -> None:
        """Tokenise adjoining words as one text; a token is supervised when it holds a supervised character."""
        if not run:
            return
        text = "".join(p.text for p in run)
        supervised = [flag for p in run for flag in [p.supervised] * len(p.text)]
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True)
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ids.append(token)
            labels.append(token if any(supervised[start:end]) else IGNORE)
