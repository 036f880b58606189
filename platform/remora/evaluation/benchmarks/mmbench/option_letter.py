"""Find the option that an answer means, by VLMEvalKit's rules (matching_util.py and multiple_choice.py at e8e78f0)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from remora.evaluation.judge import judge_texts

NONE = "Z"
"""The letter that means no option."""
FAILED = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
SPOKEN = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
"""Also the first letter of a word: it reads B from "the answer is blue", as the published rule does."""
LAST = 4
"""A letter counts among this many words from the end."""
CHINESE = re.compile("[一-鿿]")


def infer(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the one option that an answer names or quotes, `Z` for a refusal, or an empty string."""
    return _named(answer, options) or _quoted(answer, options)


def _named(answer: str, options: Mapping[str, str]) -> str:
    if FAILED in answer:
        return ""
    if any(refusal in answer for refusal in REFUSALS):
        return NONE
    words = answer.translate(MARKS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - LAST:
        return letters[0]
    if not letters and NONE in words:
        return NONE
    spoken = SPOKEN.search(answer)
    return spoken[1].upper() if spoken and spoken[1].upper() in options else ""


def _quoted(answer: str, options: Mapping[str, str]) -> str:
    """An answer much longer than the options is an explanation that mentions them."""
    if len(answer.lower()) > 2 * sum(len(text) for text in options.values()):
        return ""
    quoted = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return quoted[0] if len(quoted) == 1 else ""


def judge_prompt(question: str, options: Mapping[str, str], answer: str) -> str:
    """VLMEvalKit's prompt to a judge about an answer that the rules cannot read, in the question's language."""
    texts = judge_texts(__file__)
    listed = texts["options"] + "".join(f"{letter}. {text}\n" for letter, text in options.items())
    return texts["chinese" if CHINESE.search(question) else "english"].format(question, listed, answer)
