"""docs/prompts.md shows every template rendered; `python tests/reading/test_prompt_docs.py` prints it."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_tokenizers import MAKERS

from remora import catalog
from remora.data.conversation import Turn
from remora.reading.prompt import Prompter
from remora.token_ids import IGNORE, IMAGE

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"
TURNS = [
    Turn("user", "What is it?", 1),
    Turn("assistant", "a cat"),
    Turn("user", "Which colour?"),
    Turn("assistant", "red"),
]
SHOWN_ON = {
    **{"bunny-llama-3": "llama-3", "chatml": "qwen2", "llama-2": "vicuna", "llama-3": "llama-3", "gemma": "gemma"},
    **{"zephyr": "stablelm", "tokenizer": "smollm2"},
}
"""The tokenizer of an example; phi's else."""


def spelt(tokenizer, i: int) -> str:
    token = tokenizer.convert_ids_to_tokens(i)
    if "▁" in token:  # sentencepiece's space, which decoding would drop at a start
        return token.replace("▁", " ")
    return tokenizer.decode([i], skip_special_tokens=False)


def rendered(template: str) -> str:
    """The ids as text: `<image>` for a picture, ⏎ for a line end, what is supervised in ⟦ ⟧."""
    tokenizer = MAKERS[SHOWN_ON.get(template, "phi")]()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokens = Prompter(catalog.template(template), tokenizer, 1).encode(TURNS)
    text, was = "", False
    for i, label in zip(tokens.ids, tokens.labels, strict=True):
        supervised = label != IGNORE
        text += ("⟦" if supervised else "⟧") * (supervised != was)
        text += "<image>" if i == IMAGE else spelt(tokenizer, i)
        was = supervised
    return (text + "⟧" * was).replace("\n", "⏎")


def section(template: str) -> str:
    return f"`{template}`\n\n    {rendered(template)}\n"


@pytest.mark.parametrize("template", catalog.entries("templates"))
def test_the_page_shows_the_template_as_it_is_rendered(template):
    assert section(template) in PAGE.read_text()


def test_the_page_shows_no_template_that_is_gone():
    shown = {line.strip("`") for line in PAGE.read_text().splitlines() if line.startswith("`") and line.endswith("`")}
    assert shown == set(catalog.entries("templates"))


if __name__ == "__main__":
    print("\n".join(section(name) for name in catalog.entries("templates")))
