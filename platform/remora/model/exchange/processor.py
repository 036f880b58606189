"""Tokenizer, chat template and picture processor of an exported model: they say in the stock way what ours say."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer
from transformers import AddedToken, CLIPImageProcessor, LlavaImageProcessor, LlavaProcessor, PreTrainedTokenizerBase

from remora.catalog import Template, Vision
from remora.errors import DataError

IMAGE_TOKEN = "<image>"


def with_image_token(tokenizer: PreTrainedTokenizerBase, template: Template, stop: str) -> PreTrainedTokenizerBase:
    """A copy that has `<image>` and reads a whole rendered conversation as Remora reads its pieces.

    Remora tokenises the words between two special tokens alone. A tokenizer that is given the whole text cuts it at the
    same tokens, but some tokens eat the spaces beside them (`rstrip`), and some tokenizers put their word mark in front
    of the first stretch only (`prepend_scheme: first`); both are switched off.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    said = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    for token in said["added_tokens"]:
        if token["content"] in (*template.tokens, stop, IMAGE_TOKEN):
            token |= {"lstrip": False, "rstrip": False, "normalized": False}
    pre = said["pre_tokenizer"] or {}
    for step in (pre, *pre.get("pretokenizers", ())):
        if step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "always"
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(said))  # type: ignore[attr-defined]
    tokenizer.image_token = IMAGE_TOKEN  # type: ignore[attr-defined]
    return tokenizer


def chat_template(template: Template, stop: str, bos: str) -> str:
    """A Jinja chat template that renders as `template` does; `bos` comes first.

    Content is a text, or a list of `{"type": "image"}` and `{"type": "text", "text": …}`. A turn's pictures stand where
    the template has them, its texts are joined by line breaks, and `<image>` in a text is dropped: an engine would take
    it for a picture. There is no system turn, as everywhere in Remora.
    """
    before, after = template.user.split("{image}", 1)
    between, words, rest = after.partition("{text}")
    head, tail = template.assistant.replace("{eos}", stop).split("{text}", 1)
    picture = _quoted(IMAGE_TOKEN + template.image_suffix)
    text = (
        '{%- if message["content"] is string %}{% set said = message["content"] %}{% else %}'
        '{% set said = message["content"] | selectattr("type", "equalto", "text") | map(attribute="text") | join("\\n") %}'
        "{% endif %}"
    )
    no_system = _quoted("system turns are not part of this model's prompt; put the words into a user turn")
    return "\n".join(
        [
            f"{{{{- {_quoted(bos + template.system)} }}}}",
            '{%- for message in messages %}',
            text,
            '{%- if message["role"] == "user" %}',
            f"{{{{- {_quoted(before)} }}}}",
            '{%- if message["content"] is not string %}{% for part in message["content"] %}'
            '{% if part["type"] == "image" %}' + f"{{{{ {picture} }}}}" + "{% endif %}{% endfor %}{% endif %}",
            f"{{{{- {_quoted(between)} }}}}",
            *([f"{{{{- said | replace({_quoted(IMAGE_TOKEN)}, '') }}}}{{{{ {_quoted(rest)} }}}}"] if words else []),
            '{%- elif message["role"] == "assistant" %}',
            f"{{{{- {_quoted(head)} ~ said ~ {_quoted(tail)} }}}}",
            "{%- else %}",
            f"{{{{- raise_exception({no_system}) }}}}",
            "{%- endif %}",
            "{%- endfor %}",
            '{%- if add_generation_prompt and messages[-1]["role"] == "user" %}'
            f"{{{{ {_quoted(template.assistant.split('{text}', 1)[0].rstrip(' '))} }}}}" + "{% endif %}",
        ]
    )


def _quoted(text: str) -> str:
    """A string literal of Jinja, which takes Python's escapes."""
    return json.dumps(text, ensure_ascii=False)


def leading(tokenizer: PreTrainedTokenizerBase) -> str:
    """The BOS that the tokenizer itself puts before every text, or an empty string.

    Raises:
        DataError: it puts something else.
    """
    ids = tokenizer("")["input_ids"]
    if ids == []:
        return ""
    if ids == [tokenizer.bos_token_id]:
        return str(tokenizer.bos_token)
    tokens = " ".join(tokenizer.convert_ids_to_tokens(ids))
    raise DataError(f"the tokenizer puts {tokens} around an empty text, a chat template can write a BOS alone")


def write_processor(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    stop: str,
    encoder: Vision,
    patch: int,
    aspect: Literal["square", "pad"],
    folder: Path,
) -> None:
    """Write tokenizer, processor and chat template into `folder`."""
    side = {"height": encoder.image_size, "width": encoder.image_size}
    crop = encoder.fit == "crop" and aspect == "square"
    settings: dict[str, Any] = {
        "size": {"shortest_edge": encoder.image_size} if crop else side,
        "do_center_crop": crop,
        "crop_size": side,  # also where nothing is cropped: the stock processor counts a picture's tokens by it
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        "resample": 3,  # bicubic
    }
    pictures = LlavaImageProcessor(do_pad=True, **settings) if aspect == "pad" else CLIPImageProcessor(**settings)
    strategy = "default" if encoder.prefix else "full"
    grid = (encoder.image_size // patch) ** 2
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=strategy,
        # The stock count is grid + additional, less one with `default`.
        num_additional_image_tokens=encoder.tokens + encoder.prefix - grid,
        chat_template=chat_template(template, stop, leading(tokenizer)),
        image_token=IMAGE_TOKEN,
    )
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)  # preprocessor_config.json, where engines and older versions look
