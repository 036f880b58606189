"""Words to ids: as the tokenizer gives them inside a longer text, but never a special token.

The backend is copied once and changed in three ways. Special tokens, and those that the template writes, are spelt out
when a text contains them. The post-processor is gone: it adds the BOS, and GPT-2's trims spaces off the spans. And one
more token, the fence, can be put before a text, so that the tokenizer treats it as the middle of a longer one: Llama's
puts a space before a text's first word, and only there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from remora.errors import SpecError

FENCE = "\ue000fence\ue001"
"""In no vocabulary; private-use characters. Where a text spells it out, it is left out."""


class WordTokenizer:
    """Plain words of one tokenizer.

    Args:
        written: special tokens that a prompt writes, whether or not the tokenizer calls them special.

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
        self._words = copy.deepcopy(original)
        self._words.no_truncation()
        self._words.no_padding()
        self._words.post_processor = None
        self._words.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in written])
        self._words.add_tokens([AddedToken(FENCE, normalized=False, special=False)])
        self._words.encode_special_tokens = True
        self._fence = self._words.token_to_id(FENCE)
        self.added = {t.content: t for t in self._words.get_added_tokens_decoder().values()}
        # Called special by either, a token is one: the library's own list misses those of a tokenizer_config.json.
        named = {*written, *(str(t) for t in tokenizer.all_special_tokens)}
        self.special = {c: self._words.token_to_id(c) for c, t in self.added.items() if t.special or c in named}
        for token in self.special:
            forged = {id for id, _ in self.encode(token)} & set(self.special.values())
            if forged:
                raise SpecError(
                    f"the tokenizer makes the special token {token!r} out of plain text, so any text could forge it; "
                    "choose another language model: remora catalog llm"
                )

    def strips(self, token: str, side: str) -> bool:
        """Whether a special token takes the spaces on its `left` or `right` with it, as Phi-3's do."""
        added = self.added[token]
        return bool(added.lstrip if side == "left" else added.rstrip)

    def encode(self, text: str, continues: bool = False) -> Iterator[tuple[int, range]]:
        """(id, characters of `text` that it stands for) of every token. `continues`: more text stood before it.

        A token without a character of its own, as Llama's first space, stands for the one that it is before.
        """
        start = len(FENCE) if continues else 0
        encoded = self._words.encode((FENCE if continues else "") + text, add_special_tokens=False)
        for id, (first, last) in zip(encoded.ids, encoded.offsets, strict=True):
            if id != self._fence:
                yield id, range(first - start, max(last, first + 1) - start)
