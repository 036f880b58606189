"""Convert turns to token ids and labels.

A conversation is rendered into pieces (text, special tokens, pictures), and each piece knows whether it is supervised.
Adjacent text is tokenised at once, and labels follow from each token's characters. The LLaVA family instead tokenises
twice and counts, and so loses whole samples to "tokenization mismatch". In a turn's text, special tokens are spelt out,
so no text can forge an end token or a picture. See docs/prompts.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from remora.catalog import Template
from remora.data.conversation import Turn
from remora.errors import DataError, SpecError
from remora.files import digest
from remora.reading.chat import OTHER, ChatTemplate
from remora.reading.rendering import Marks, Piece
from remora.reading.word_tokenizer import WordTokenizer
from remora.token_ids import IGNORE, IMAGE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class OverLength(DataError):
    """A conversation whose first question and answer exceed the limit."""


class Size(NamedTuple):
    """Size of a conversation: tokens including those of pictures, pictures, and supervised tokens."""

    tokens: int
    images: int
    supervised: int


@dataclass(frozen=True)
class Tokens:
    """ids with IMAGE at picture positions; labels with IGNORE where there is no loss. Both have the same length.

    `images` is the number of pictures: the first ones of the conversation, fewer than all if it was cut.
    """

    ids: list[int]
    labels: list[int]
    images: int = 0

    @property
    def size(self) -> Size:
        # The first token has no predecessor that could predict it.
        return Size(len(self.ids), self.images, sum(label != IGNORE for label in self.labels[1:]))


def rendered_words(template: Template, turns: Sequence[Turn]) -> str:
    """The conversation as text without special tokens and pictures, to train a new tokenizer on.

    Raises:
        SpecError: the template is the tokenizer's chat template, and there is no tokenizer yet.
    """
    if template.chat:
        raise SpecError(f"a model from scratch has no chat template{OTHER}")
    stop, bos = template.stop or "\0", "\1"  # placeholders for tokens that the tokenizer does not have yet
    pieces = Marks(template, stop, bos, (*template.tokens, stop, bos)).pieces(turns)
    return "".join(p.text for p in pieces if not p.token)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a special token, which the tokenizer must have."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


class Prompter:
    """Renders conversations with one template for one tokenizer. `stop` is the token that ends an answer.

    Raises:
        SpecError: the template and the tokenizer do not fit.
    """

    def __init__(self, template: Template, tokenizer: PreTrainedTokenizerBase, image_tokens: int) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.image_tokens = image_tokens
        if not tokenizer.eos_token:
            raise SpecError("the tokenizer has no end token, so answers would not end; set its eos_token")
        self._start: list[int] = []
        self._renderer: ChatTemplate | Marks
        if template.chat:
            self._words = WordTokenizer(tokenizer, _written_by_chat(tokenizer))
            self._renderer = ChatTemplate(tokenizer, template.image_suffix, self._words.special)
        else:
            stop, bos = template.stop or str(tokenizer.eos_token), str(tokenizer.bos_token or "")
            self._words = WordTokenizer(tokenizer, (*template.tokens, stop))
            self._renderer = Marks(template, stop, bos, self._words.special)
            probe = tokenizer("a", return_special_tokens_mask=True)  # what the tokenizer puts first, often a BOS
            marked = zip(probe["input_ids"], probe["special_tokens_mask"], strict=True)
            self._start = [token for token, _ in takewhile(lambda pair: pair[1], marked)]
        self.stop = self._renderer.stop

    @cached_property
    def identity(self) -> str:
        """Digest of everything that decides a conversation's tokens, except the number of tokens per picture."""
        tokenizer = self.tokenizer
        backend, versions = tokenizer.backend_tokenizer.to_str(), [version("tokenizers"), version("transformers")]
        written = [tokenizer.chat_template, sorted(self.special.items()), self._start, self.stop]
        return digest([self.template.model_dump(mode="json"), backend, written, versions])

    @property
    def special(self) -> dict[str, int]:
        """Every special token with its id: the tokenizer's, and those in prompts."""
        return self._words.special

    def counted(self, size: Size, pictures: bool = True) -> int:
        """Tokens of a conversation; each picture counts with all of its tokens, or as one if not `pictures`."""
        return size.tokens - (0 if pictures else size.images * (self.image_tokens - 1))

    def excess(self, size: Size, length: int, pictures: bool = True, whole: int | None = None) -> int:
        """By how many tokens a conversation exceeds `length` (see `counted`) or, with all of its pictures' tokens,
        `whole`; 0 or less if it fits."""
        over = self.counted(size, pictures) - length
        return over if whole is None else max(over, size.tokens - whole)

    def encode(
        self,
        turns: Sequence[Turn],
        max_length: int | None = None,
        count_pictures: bool = True,
        whole: int | None = None,
    ) -> Tokens:
        """ids and labels of a conversation, each picture as `image_tokens` positions.

        If it exceeds `max_length` or `whole` (see `excess`), whole questions with their answers and pictures are cut
        from its end.

        Raises:
            OverLength: not even its first question and answer fit.
        """
        tokens = self._encode(turns)
        if max_length is None or self.excess(tokens.size, max_length, count_pictures, whole) <= 0:
            return tokens
        allowed = max_length
        before = len(turns) % 2  # a system message
        rounds = range(1, len(turns) // 2 + 1)

        def begun(rounds: int) -> Tokens:
            return self._encode(turns[: before + 2 * rounds])

        kept = bisect_right(rounds, 0, key=lambda n: self.excess(begun(n).size, allowed, count_pictures, whole))
        if not kept:
            first = self.counted(begun(1).size, count_pictures)
            if first <= allowed:  # it is the pictures that are too many
                first, allowed = len(begun(1).ids), whole or 0
            raise OverLength(f"its first question and answer have {first} tokens, of {allowed} allowed")
        return self._encode(turns[: before + 2 * kept])

    def _encode(self, turns: Sequence[Turn]) -> Tokens:
        ids, labels = list(self._start), [IGNORE] * len(self._start)
        run: list[Piece] = []
        after: str | None = None  # the special token before the run; None at the start and after a picture
        images = 0
        for piece in self._renderer.pieces(turns):
            if not (piece.token or piece.image):
                run.append(piece)
                continue
            self._flush(run, after, piece.text if piece.token else None, ids, labels)
            run, after = [], piece.text if piece.token else None
            if piece.image:
                ids += [IMAGE] * self.image_tokens
                labels += [IGNORE] * self.image_tokens
                images += 1
            else:
                ids.append(self._words.special[piece.text])
                labels.append(ids[-1] if piece.supervised else IGNORE)
        self._flush(run, after, None, ids, labels)
        return Tokens(ids, labels, images)

    def _flush(self, run: list[Piece], after: str | None, until: str | None, ids: list[int], labels: list[int]) -> None:
        """Tokenise adjacent text at once; a token is supervised if it contains a supervised character."""
        text, cut = self._words.trim("".join(p.text for p in run), after, until)
        supervised = [p.supervised for p in run for _ in p.text][cut:]
        for token, characters in self._words.encode(text, continues=after is not None):
            ids.append(token)
            labels.append(token if any(supervised[characters.start : characters.stop]) else IGNORE)


def _written_by_chat(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The added tokens in the source of the tokenizer's chat template, and the end token.

    Raises:
        SpecError: it has no chat template.
    """
    if not tokenizer.chat_template:
        raise SpecError(f"the tokenizer has no chat template{OTHER}")
    source = tokenizer.get_chat_template()
    added = (str(t) for t in tokenizer.added_tokens_decoder.values())
    return [*(t for t in added if t.strip() and t in source), str(tokenizer.eos_token)]
