"""A tokenizer's own chat template as pieces of a prompt.

The template is rendered once for each number of turns, with a mark in place of every message. What stands around the
marks is the template's, what replaces them is the turn's, so nothing has to be found again in a rendered text.
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
"""Llama-3.2's and SmolLM3's templates write today's date; a batch must not depend on the day. Theirs if no clock is."""
ROLES = ("user", "assistant")
OTHER = "; choose another template: remora catalog templates"


class ChatTemplate:
    """The chat template of a tokenizer. `stop` is the first special token after an answer.

    Raises:
        SpecError: it leaves out or changes a message, or ends an answer with no special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_suffix: str, specials: Iterable[str]) -> None:
        self.tokenizer = tokenizer
        self.image_suffix = image_suffix
        self.specials = pattern_of(specials)
        self._around = lru_cache(maxsize=512)(self._around_messages)
        last, _ = self._around(2, False)[-1]
        stops = [p.text for p in split_tokens(last, self.specials) if p.token]
        if not stops:
            raise SpecError(f"the tokenizer's chat template ends an answer with no special token{OTHER}")
        self.stop = stops[0]

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The conversation; it ends where the next answer starts if the last turn is the user's."""
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
        """Whether the template writes a system message before the others, in conversations of any length."""
        try:
            for count in range(1, 5):
                self._render(count, system=True)
        except SpecError:
            return False
        return True

    def _around_messages(self, count: int, system: bool) -> list[tuple[str, str]]:
        """(asked, lead) before a system message (empty without one), then before, between and after `count` messages;
        the model writes the lead before its answer."""
        texts = self._render(count, system)
        if not system:
            texts = ["", *texts]
        around = [(text, "") for text in texts]
        if count % 2:
            around[-1] = (around[-1][0].rstrip(" "), "")
        for number in range(1, count, 2):
            text, asked = around[number + 1][0], self._render(number, system)[-1].rstrip(" ")
            # Qwen3 asks for an answer with an empty thought in front and forgets it later: none of it is the model's.
            end = len(asked) if text.startswith(asked) else len(text)
            around[number + 1] = (text[:end], text[end:])
        return around

    def _render(self, count: int, system: bool) -> list[str]:
        """What stands before, between and after `count` messages, behind a system message if asked for, with the
        generation prompt after a question."""
        roles = [*(["system"] if system else []), *(ROLES[i % 2] for i in range(count))]
        messages = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=ONE_DAY + self.tokenizer.get_chat_template(),
                add_generation_prompt=count % 2 == 1,
                tokenize=False,
                enable_thinking=False,  # what Qwen3 and SmolLM3 would otherwise do; other templates do not read it
            )
        except TemplateError as e:
            raise SpecError(f"the tokenizer's chat template refuses a plain conversation: {e}{OTHER}") from e
        around = MARK.split(str(text))
        if around[1::2] != [str(i) for i in range(len(roles))]:
            raise SpecError(f"the tokenizer's chat template does not write every message once and unchanged{OTHER}")
        return around[::2]
