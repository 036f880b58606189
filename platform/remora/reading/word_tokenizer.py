"""Tokenise text as part of a longer text, without ever producing a special token.

The tokenizer's backend is copied and changed in three ways. Special tokens in the text, and those of the template, are
spelt out. The post-processor is removed: it adds the BOS, and GPT-2's trims spaces from spans. And an extra token, the
fence, can be put before a text to make the tokenizer treat it as the middle of a longer one: Llama's adds a space
before the first word of a text. sentencepiece always adds it; `tokenizers` (Metaspace, which transformers 5 builds for
every Llama) does not if the text begins with a space.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tokenizers import AddedToken, pre_tokenizers

from remora.errors import SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FENCE = "\ue000fence\ue001"
"""Private-use characters that are in no vocabulary. They are removed from texts."""
SPACES = (" ", "\u2581")
"""Characters that Metaspace takes for a space, and so for the one that it would add."""


class WordTokenizer:
    """Tokenises plain text with one tokenizer.

    Args:
        written: special tokens of the prompt, whether or not the tokenizer calls them special.

    Raises:
        SpecError: the tokenizer has no backend of the `tokenizers` library, lacks a token of `written`, or spells a
            special token's id out of plain text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, written: Iterable[str]) -> None:
        original = getattr(tokenizer, "backend_tokenizer", None)
        if original is None:
            raise SpecError(
                f"{type(tokenizer).__name__} is written in Python and gives no character spans; "
                "convert it to a tokenizer.json (transformers: AutoTokenizer with use_fast) and use that folder"
            )
        written = tuple(written)
        for token in written:
            if original.token_to_id(token) is None:
                raise SpecError(
                    f"the template writes {token!r}, which the tokenizer does not have; "
                    "choose another: remora catalog templates"
                )
        added = {t.content: t for t in original.get_added_tokens_decoder().values()}
        # Special are those that the library or transformers calls so, and those of the prompt.
        called = {
            *written,
            *(str(t) for t in tokenizer.all_special_tokens),
            *(c for c, t in added.items() if t.special),
        }
        ids = {token: original.token_to_id(token) for token in called}
        self.special: dict[str, int] = {token: id for token, id in ids.items() if id is not None}
        self._strips_left = {t for t in self.special if t in added and added[t].lstrip}
        self._strips_right = {t for t in self.special if t in added and added[t].rstrip}
        self._words = copy.deepcopy(original)
        self._words.no_truncation()
        self._words.no_padding()
        self._words.post_processor = None
        metaspace = self._words.pre_tokenizer
        self._prefix = metaspace.prepend_scheme if isinstance(metaspace, pre_tokenizers.Metaspace) else "never"
        self._words.add_special_tokens([AddedToken(t, normalized=False) for t in self.special])
        self._words.add_tokens([AddedToken(FENCE, normalized=False, special=False)])
        self._words.encode_special_tokens = True
        self._fence = self._words.token_to_id(FENCE)
        # An unknown character may become the unknown token, unless the prompt uses that token too.
        forbidden = {id for token, id in self.special.items() if token != tokenizer.unk_token or token in written}
        for token in self.special:
            if any(id in forbidden for id, _ in self.encode(token)):
                raise SpecError(
                    f"the tokenizer makes the special token {token!r} out of plain text, so any text could forge it; "
                    "choose another language model: remora catalog llm"
                )

    def trim(self, text: str, after: str | None, until: str | None) -> tuple[str, int]:
        """(text without the spaces that adjacent special tokens strip, as Phi-3's role tokens do; number removed at the
        start)."""
        if until in self._strips_left:
            text = text.rstrip()
        kept = text.lstrip() if after in self._strips_right else text
        return kept, len(text) - len(kept)

    def encode(self, text: str, continues: bool = False) -> Iterator[tuple[int, range]]:
        """(id, range of characters in `text`) of every token. `continues`: there is text before it.

        The space that Llama's adds belongs to the next character, and a byte token to its whole character.
        """
        prefixed = self._prefix == "always" or (self._prefix == "first" and not continues)
        before = FENCE if continues else ""
        if prefixed and text.startswith(SPACES):
            before += " "  # the one that Metaspace does not add
        encoded = self._words.encode(before + text, add_special_tokens=False)
        for id, (first, last) in zip(encoded.ids, encoded.offsets, strict=True):
            if id != self._fence:
                begin = max(first - len(before), 0)
                yield id, range(begin, max(last - len(before), begin + 1))
