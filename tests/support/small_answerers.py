"""Answerers over the language models of small_llms.py, and conversations that tell one from another."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remora import catalog
from remora.inference import Answerer, Message, Request
from remora.model.vlm import VisionLanguageModel
from remora.reading.prompt import Prompter
from support.small_llms import IMAGE_TOKENS, llm_of

TOKENS = 6
TEMPERATURES = {"gemma-2b": 4.0}
TEMPERATURE = 0.3
"""At which their answers differ, and hang on what was read; Gemma's logits are larger."""


class Pixels(nn.Module):
    """[I, 3, S, S] -> [I, IMAGE_TOKENS, 12]: the mean colours of a grid of 4 x 4."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1).view(len(pixels), IMAGE_TOKENS, 12)


def answerer_of(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float32,
    llm: PreTrainedModel | None = None,
) -> Answerer:
    """Its answers are noise, which makes them sensitive, and some that are drawn stop."""
    llm = llm or llm_of(name)
    torch.manual_seed(1)
    model = VisionLanguageModel(llm, Pixels(), nn.Linear(12, llm.config.hidden_size), 96, IMAGE_TOKENS)
    prompter = Prompter(catalog.template("brief"), tokenizer, IMAGE_TOKENS)
    answerer = Answerer(name, model.to(dtype), prompter, "efficientnet-lite0")
    answerer.stop_id = -1
    answerer.prompter.tokenizer = Ids()
    first: set[int] = set()
    later: Counter[int] = Counter()
    for conversation in conversations()[:12]:
        answer = answerer.answer_alone(Request(conversation, 6, temperature_of(name), seed=3))
        said = [int(token) for token in answer.text.split()]
        first.add(said[0])
        later.update(set(said[1:]))
    # Common in answers but never at their start; else half of the answers would be empty and useless for comparison.
    answerer.stop_id = next(token for token, _ in later.most_common() if token not in first)
    return answerer


def temperature_of(name: str) -> float:
    return TEMPERATURES.get(name, TEMPERATURE)


def requests_of(name: str) -> list[Request]:
    """One of each conversation: greedy and sampled, of several limits, with penalties, biases and stop texts."""
    warm = temperature_of(name)
    settings: list[dict[str, Any]] = [
        {"max_new_tokens": TOKENS},
        {"max_new_tokens": TOKENS, "temperature": warm, "seed": 1},
        {"max_new_tokens": 2},
        {"max_new_tokens": 9, "temperature": warm, "top_p": 0.7, "seed": 2},
        {"max_new_tokens": 3, "temperature": 2 * warm, "top_k": 4, "seed": 3},
        {"max_new_tokens": TOKENS, "frequency_penalty": 0.5, "presence_penalty": 0.1},
        {"max_new_tokens": TOKENS, "logit_bias": ((7, 2.0), (9, -3.0))},
        {"max_new_tokens": 12, "temperature": warm, "seed": 4, "stop": ("1", " 3")},
    ]
    return [Request(c, **settings[3 * i % 8]) for i, c in enumerate(conversations())]


class Ids:
    """Stands in for the tokenizer where an answer's tokens become text: here they stay numbers."""

    clean_up_tokenization_spaces = False
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


def pictures(n: int) -> list[Image.Image]:
    return [Image.effect_mandelbrot((40 + i, 50), (-2 + i / 9, -1.5, 1, 1.5), 20).convert("RGB") for i in range(n)]


def conversations() -> list[list[Message]]:
    """32 of them: with no picture, one and two, of several lengths, some with an earlier round."""
    shown = pictures(5)
    asked = []
    for i in range(32):
        images = ((), (shown[i % 5],), (shown[i % 5], shown[(i + 1) % 5]), (shown[i % 5],))[i % 4]
        text = "What is this?" + " Is it blue?" * (i % 3)
        earlier = [Message("user", "What?", (shown[i % 5],)), Message("assistant", "red")] if i % 7 == 0 else []
        asked.append([*earlier, Message("user", text, images)])
    return asked
