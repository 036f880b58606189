"""Export a bundle in the stock llava layout, or whole in Remora's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from remora import catalog
from remora.data.conversation import Turn
from remora.errors import DataError
from remora.exchange.processor import IMAGE_TOKEN, LEADS, chat_template, with_image_token
from remora.exchange.stock_llava import reason_against, write_llava
from remora.exchange.tower import module_of
from remora.inference.bundle import FILE, Bundle, read_bundle, write_bundle
from remora.inference.writing import output_errors, refuse_full, writing
from remora.model.parts import compose, save_parts
from remora.model.refs import PartRef
from remora.model.vlm import VisionLanguageModel
from remora.reading.prompt import Prompter
from remora.spec import PARTS
from remora.token_ids import IMAGE

PROBES = (
    [Turn("user", "What is this?", 1)],
    [Turn("user", " Two  pictures,\n one question?", 2), Turn("assistant", "Yes."), Turn("user", "Sure? 42!")],
    [Turn("user", "", 1)],
    [Turn("user", "No picture."), Turn("assistant", "a cat"), Turn("user", "And\there: é, 日本?", 1)],
)
"""Conversations for which the exported tokenizer must give the same tokens as our own prompter."""


Papers = Callable[[str], Mapping[str, str]]
"""Gives the texts that go with a model in a layout, by their files' names."""


@dataclass(frozen=True)
class Exported:
    """The layout written: `llava` (the stock layout), or `remora` with the reason."""

    layout: str
    reason: str | None = None


def export_bundle(folder: Path, out: Path, cache: Path, papers: Papers = lambda layout: {}) -> Exported:
    """Write a bundle's model to `out`: in the stock llava layout if it has one, else whole in Remora's own. `papers`
    are written with it.

    Raises:
        DataError: no bundle there, or `out` holds files already.
    """
    refuse_full(out)
    bundle = read_bundle(folder, cache)
    model, tokenizer = compose(bundle.parts, bundle.seed)
    encoder = catalog.vision(bundle.parts["vision"].name)
    connector = catalog.connector(bundle.parts["connector"].name)
    llm = model.llm
    prompter = Prompter(catalog.template(bundle.template), tokenizer, model.image_tokens)
    chat, reason = stock_chat(prompter)
    reason = reason_against(encoder, connector, llm) or reason
    if reason or chat is None:
        about = json.loads((folder / FILE).read_text())["about"]
        _write_whole(out, bundle, model, tokenizer, about, papers("remora"))
        return Exported("remora", reason)
    assert model.vision is not None and model.connector is not None
    tower = module_of(model.vision)
    with output_errors(out):
        write_llava(
            out,
            encoder=encoder,
            vision_config=tower.config,
            vision_state=tower.state_dict(),
            connector_state=model.connector.state_dict(),
            llm=llm,
            tokenizer=tokenizer,
            chat=chat,
            stop=prompter.stop,
            aspect=bundle.aspect,
            llm_hub=catalog.llm(bundle.parts["llm"].name).hub or "",
            papers=papers("llava"),
        )
    return Exported("llava")


def stock_chat(prompter: Prompter) -> tuple[str | None, str | None]:
    """A chat template with which the stock processor gives our prompter's tokens, or None and the reason.

    Checked on `PROBES`, not derived: the stock processor tokenizes the whole rendered text, ours tokenizes pieces.
    """
    tokenizer = with_image_token(prompter.tokenizer)
    reason = ""
    for leads in LEADS:
        try:
            chat = chat_template(prompter.template, tokenizer, prompter.stop, *leads)
            reason = _difference(prompter, tokenizer, chat)
        except (DataError, TemplateError) as e:
            return None, str(e)
        if not reason:
            return chat, None
    return None, reason


def _difference(prompter: Prompter, tokenizer: PreTrainedTokenizerBase, chat: str) -> str:
    """Where the two tokenize a probe differently; an empty string if nowhere."""
    picture = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    for turns in PROBES:
        text = str(
            tokenizer.apply_chat_template(
                messages_of(turns), chat_template=chat, tokenize=False, add_generation_prompt=True
            )
        )
        ours = _folded(prompter.encode(turns).ids, prompter.image_tokens, picture)
        # Engines tokenise a chat without special tokens; transformers adds them if the text has no BOS.
        adds = not (tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)))
        for special in {False, adds}:
            theirs = tokenizer(text, add_special_tokens=special)["input_ids"]
            if theirs != ours:
                differ = (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
                at = next(differ, min(len(ours), len(theirs)))
                return (
                    f"its tokenizer reads a whole conversation otherwise than its pieces: token {at} of {text[:60]!r}"
                )
    return ""


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as the messages of a chat template."""
    return [
        {"role": t.role, "content": [*({"type": "image"} for _ in range(t.images)), {"type": "text", "text": t.text}]}
        for t in turns
    ]


def _folded(ids: list[int], image_tokens: int, picture: int) -> list[int]:
    """ids with each run of `image_tokens` IMAGE replaced by one `picture`."""
    out: list[int] = []
    i = 0
    while i < len(ids):
        out.append(picture if ids[i] == IMAGE else ids[i])
        i += image_tokens if ids[i] == IMAGE else 1
    return out


def _write_whole(
    out: Path,
    bundle: Bundle,
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    about: dict[str, object],
    papers: Mapping[str, str],
) -> None:
    """Write a bundle with every part in it: loading it reads no hub and no cache."""
    with writing(out) as tmp:
        save_parts(model, tokenizer, tmp)
        parts = {part: PartRef(bundle.parts[part].name, tmp / part) for part in PARTS}
        write_bundle(out, replace(bundle, parts=parts), about, papers)
