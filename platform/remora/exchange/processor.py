"""Export tokenizer, chat template and picture processor in the stock format, equivalent to ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

from transformers import (
    AddedToken,
    CLIPImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from remora.catalog import Template, Vision
from remora.errors import DataError

IMAGE_TOKEN = "<image>"
FILTERS = {None: 3, "bicubic": 3, "bilinear": 2}
"""Pillow's filter numbers, as used in a processor's config."""
LEADS = (("", ""), (" ", " "), (" ", ""))
"""Candidates for the text between a picture, or the BOS, and the text after it; and after a picture without text. Some
tokenizers add a space before a text. Remora tokenises what follows a picture separately; in one joined text that space
must be written, but not before a special token."""


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with `<image>`, at the next free id unless it has one."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.image_token = IMAGE_TOKEN
    return tokenizer


def chat_template(
    template: Template, tokenizer: PreTrainedTokenizerBase, stop: str, lead: str = "", last: str = ""
) -> str:
    """A Jinja chat template that renders like `template`; `stop` ends an answer, `lead` and `last` follow a picture
    (`LEADS`).

    Content is text, or a list of `{"type": "image"}` and `{"type": "text", "text": …}`. A turn's pictures go where the
    template has them, its texts are joined by line breaks, and `<image>` in text is dropped, because an engine would
    take it for a picture. System turns are not supported.

    Raises:
        DataError: the tokenizer puts more than a BOS before a text.
    """
    read = _READ.replace("PICTURE", _quoted(IMAGE_TOKEN))
    for word, suffix in (("SUFFIX", template.image_suffix), ("LAST", template.image_suffix.rstrip())):
        read = read.replace(word, _quoted((lead if suffix else last) + suffix))
    if template.chat:
        # The tokenizer's template takes text: turn pictures into text first, then render it as usual.
        return _PRELUDE.replace("READ", read) + str(tokenizer.get_chat_template())
    fill = {"{bos}": str(tokenizer.bos_token or ""), "{eos}": stop}
    system, user, assistant, opening = (
        _filled(text, fill)
        for text in (template.system, template.user, template.assistant, template.opening or template.user)
    )
    header, _, ending = assistant.partition("{text}")
    bos, first = leading(tokenizer), system or opening.partition("{image}")[0]
    starts_with_words = bool(first) and not first.startswith((" ", bos or stop, stop, *template.tokens))
    start = bos + lead + system if bos and starts_with_words else bos + system
    return "\n".join(
        [
            f"{{{{- {_quoted(start)} }}}}",
            "{%- for message in messages %}",
            read,
            '{%- if message["role"] == "user" and loop.first %}',
            *_user(opening),
            '{%- elif message["role"] == "user" %}',
            *_user(user),
            "{%- else %}",
            f"{{{{- {_quoted(header)} ~ said ~ {_quoted(ending)} }}}}",
            "{%- endif %}",
            "{%- endfor %}",
            '{%- if add_generation_prompt and messages[-1]["role"] == "user" %}'
            f"{{{{ {_quoted(header.rstrip(' '))} }}}}" + "{% endif %}",
        ]
    )


_READ = """\
{%- if message["role"] not in ["user", "assistant"] %}
{{- raise_exception("this model's prompt has user and assistant turns alone; put other words into a user turn") }}
{%- endif %}
{%- set count = namespace(left=0) %}
{%- if message["content"] is string %}
{%- set said = message["content"] | replace(PICTURE, "") %}
{%- else %}
{%- for part in message["content"] %}
{%- if part["type"] == "image" %}{% set count.left = count.left + 1 %}{% endif %}
{%- endfor %}
{%- set texts = message["content"] | selectattr("type", "equalto", "text") | map(attribute="text") %}
{%- set said = texts | join("\\n") | replace(PICTURE, "") %}
{%- endif %}
{%- set seen %}
{%- for i in range(count.left) %}{{ PICTURE }}{{ LAST if loop.last and not said else SUFFIX }}{% endfor %}
{%- endset %}"""
"""Jinja: a message's text (`said`) and its pictures (`seen`), each with its suffix, the last without spaces if no text
follows."""
_PRELUDE = """\
{%- macro strftime_now(format) %}26 Jul 2024{% endmacro %}
{%- set enable_thinking = false %}
{%- set plain = namespace(messages=[]) %}
{%- for message in messages %}
READ
{%- set plain.messages = plain.messages + [{"role": message["role"], "content": seen ~ said}] %}
{%- endfor %}
{%- set messages = plain.messages %}
{#- What follows is the language model's own chat template. -#}
"""
"""Jinja before a tokenizer's own template. The fixed date and no thinking are as in remora.reading.chat."""


def _filled(text: str, fill: dict[str, str]) -> str:
    for mark, token in fill.items():
        text = text.replace(mark, token)
    return text


def _user(text: str) -> list[str]:
    before, after = text.split("{image}", 1)
    between, words, rest = after.partition("{text}")
    said = f" ~ said ~ {_quoted(rest)}" if words else ""  # `plain` has no {text}: the caption's prompt is unused
    return [f"{{{{- {_quoted(before)} ~ seen ~ {_quoted(between)}{said} }}}}"]


def _quoted(text: str) -> str:
    """A Jinja string literal, which uses Python's escapes."""
    return json.dumps(text, ensure_ascii=False)


def leading(tokenizer: PreTrainedTokenizerBase) -> str:
    """The BOS that the tokenizer adds before every text, or an empty string.

    Raises:
        DataError: it adds something else.
    """
    ids = tokenizer("")["input_ids"]
    if ids == []:
        return ""
    if ids == [tokenizer.bos_token_id]:
        return str(tokenizer.bos_token)
    tokens = " ".join(tokenizer.convert_ids_to_tokens(ids))
    raise DataError(f"the tokenizer puts {tokens} around an empty text, a chat template can only write a BOS")


def write_processor(
    tokenizer: PreTrainedTokenizerBase,
    chat: str,
    encoder: Vision,
    patch: int,
    aspect: Literal["square", "pad"],
    folder: Path,
) -> None:
    """Write tokenizer, picture processor and chat template to `folder`; `patch` is a patch's side in pixels."""
    side = {"height": encoder.image_size, "width": encoder.image_size}
    crop = encoder.fit == "crop" and aspect == "square"
    settings: dict[str, Any] = {
        "size": {"shortest_edge": encoder.shorter_side} if crop else side,
        "do_center_crop": crop,
        "crop_size": side,  # even without cropping: the stock processor counts a picture's tokens by it
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        "resample": FILTERS[encoder.resample],
    }
    pictures = LlavaImageProcessorPil(do_pad=True, **settings) if aspect == "pad" else CLIPImageProcessorPil(**settings)
    grid = (encoder.image_size // patch) ** 2
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        # The stock count is grid + additional, less one with `default`.
        num_additional_image_tokens=encoder.tokens + encoder.prefix - grid,
        chat_template=chat,
        image_token=IMAGE_TOKEN,
    )
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)  # preprocessor_config.json, which engines and older versions read
