"""A tokenizer's chat template as pieces of a prompt.

The template is rendered once for each number of turns, with a mark in place of every message. The text around the marks
is the template's, and each mark is replaced by a turn, so messages need not be searched for in rendered text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from remora.data.conversation import Turn, with_system
from remora.errors import SpecError
from remora.reading.rendering import Piece, answer, asked_under, content, pattern_of, split_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile("\ue000([0-9]+)\ue001")
ONE_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
"""Llama-3.2's and SmolLM3's templates write today's date, but batches must not depend on it. This is the date that they
write if there is no clock."""
ROLES = ("user", "assistant")
OTHER = "; choose another template: remora catalog templates"


class ChatTemplate:
    """The chat template of a tokenizer. `stop` is the first special token after an answer.

    Raises:
        SpecError: it drops or changes a message, or does not end an answer with a special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_suffix: str, specials: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.image_suffix = image_suffix
        self.specials = pattern_of(specials)
        self._around = lru_cache(maxsize=512)(self._around_messages)
        last, _ = self._around(2, False)[-1]
        stops = [p.text for p in split_tokens(last, self.specials) if p.token]
        if not stops:
            raise SpecError(f"the tokenizer's chat template does not end an answer with a special token{OTHER}")
        self.stop = stops[0]

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The pieces of a conversation. If the last turn is the user's, they end where the next answer starts."""
        system, turns = with_system(turns)
        placed = bool(system) and self._places_system
        if system and not placed:
            turns = asked_under(system, turns)
        before, *around = self._around(len(turns), placed)
        out = [*split_tokens(before[0], self.specials)] if placed else []
        out += [Piece(system)] if placed else []
        out += split_tokens(around[0][0], self.specials)
        for number, turn in enumerate(turns):
            if turn.role == "user":
                out += content(turn, self.image_suffix, self.specials)
                continue
            ending, _ = around[number + 1]
            if self.stop not in ending:
                raise SpecError(f"the tokenizer's chat template does not end every answer with {self.stop!r}{OTHER}")
            out += answer(*around[number], turn.text, ending, self.stop, self.specials)
        if turns[-1].role == "user":
            out += split_tokens(around[-1][0], self.specials)
        return out

    @cached_property
    def _places_system(self) -> bool:
        """Whether the template puts a system message first, in conversations of any length."""
        try:
            for count in range(1, 5):
                self._render(count, system=True)
        except SpecError:
            return False
        return True

    def _around_messages(self, count: int, system: bool) -> list[tuple[str, str]]:
        """(asked, lead) before a system message (empty without one), then before, between and after `count` messages.
        `lead` is text that the model writes before its answer."""
        texts = self._render(count, system)
        if not system:
            texts = ["", *texts]
        around = [(text, "") for text in texts]
        if count % 2:
            around[-1] = (around[-1][0].rstrip(" "), "")
        for number in range(1, count, 2):
            text, asked = around[number + 1][0], self._render(number, system)[-1].rstrip(" ")
            # Qwen3's generation prompt has an empty thought, which it drops later: the model writes none of it.
            end = len(asked) if text.startswith(asked) else len(text)
            around[number + 1] = (text[:end], text[end:])
        return around

    def _render(self, count: int, system: bool) -> list[str]:
        """The text before, between and after `count` messages, optionally after a system message, with the generation
        prompt after a question."""
        roles = [*(["system"] if system else []), *(ROLES[i % 2] for i in range(count))]
        messages = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=ONE_DAY + self.tokenizer.get_chat_template(),
                add_generation_prompt=count % 2 == 1,
                tokenize=False,
                enable_thinking=False,  # the default of Qwen3 and SmolLM3 is True; other templates ignore it
            )
        except TemplateError as e:
            raise SpecError(f"the tokenizer's chat template refuses a plain conversation: {e}{OTHER}") from e
        around = MARK.split(str(text))
        if around[1::2] != [str(i) for i in range(len(roles))]:
            raise SpecError(f"the tokenizer's chat template does not write every message once and unchanged{OTHER}")
        return around[::2]
