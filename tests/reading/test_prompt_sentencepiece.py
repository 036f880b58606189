"""Ids and labels on tokenizers that ship only `tokenizer.model` equal sentencepiece's and the published masks."""

from __future__ import annotations

import pytest
from prompt_published import PICTURE, VICUNA, Published, Round
from prompt_sentencepiece import OF_LLAMA, Slow, added_tokens, folder, trained, with_llamas_ids
from prompt_tokenizers import WRITTEN, write
from test_prompt_published import CONVERSATIONS, JINJA, N, check

from remora import catalog
from remora.data.conversation import Turn
from remora.errors import DataError
from remora.model.llm import load_tokenizer
from remora.model.vlm import IGNORE, IMAGE
from remora.reading.prompt import Prompter

PAIRS = [(template, legacy) for template in ("vicuna", "plain", "llama-2", "zephyr") for legacy in (True, False)]
TEXTS = [
    "What is it?",
    " ASSISTANT:",
    "  two",
    "\nWhat",
    "a  b",
    "A  chat ",
    "42 cats\n\n é🐟",
    "▁x",
    " ",
    "    ",
    "\t\n",
]


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """(prompter, published code on sentencepiece) of a template and `legacy`."""
    root, known = tmp_path_factory.mktemp("models"), {}

    def make(template, legacy):
        if legacy not in known:
            known[legacy] = write(load_tokenizer(folder(root / str(legacy), model, legacy)))
        tokenizer = known[legacy]
        prompter = Prompter(catalog.template(template), tokenizer, N)
        published = Published(tokenizer, N, [t for t in WRITTEN if t in catalog.template(template).tokens])
        slow = Slow(model, legacy, published.names, added_tokens(tokenizer))
        return prompter, published.on(slow.encode)

    return make


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("template", "legacy"), PAIRS)
def test_ids_and_labels_are_the_published_codes(made, template, legacy):
    prompter, published = made(template, legacy)
    counted = 0
    for conversation in CONVERSATIONS:
        if template == "plain":
            conversation = [Round("", conversation[0].answer, 1)]
            ids = published.ids(PICTURE + conversation[0].answer + "\n")
            asked = len(published.ids(PICTURE))
            labels = [IGNORE] * asked + ids[asked:]
        elif template == "zephyr":
            conversation = [Round(r.question.strip(), r.answer.strip(), r.images) for r in conversation]
            spans, text = published.chat(conversation, JINJA["zephyr"], prompter.stop)
            ids = published.ids(text)
            labels = published.mask_by_beginnings(ids, spans)
        else:
            spans, text = (
                published.v1(conversation, VICUNA, published.eos)
                if template == "vicuna"
                else (published.llama_2(conversation))
            )
            ids = published.ids(text)
            labels = published.mask_by_beginnings(ids, spans)
            words = " ASSISTANT: " if template == "vicuna" else "[/INST] "
            theirs = published.mask_by_counting(ids, text, words, published.eos, template == "vicuna" and not legacy)
            assert theirs in (labels, None)
            counted += theirs is not None
        check(prompter, conversation, published, ids, labels)
    assert template in ("plain", "zephyr") or counted >= 0.9 * len(CONVERSATIONS)


@pytest.mark.parametrize("legacy", [True, False, None])
def test_a_folder_of_tokenizer_model_alone_loads_with_sentencepieces_own_ids(tmp_path, model, legacy):
    """A text at the start, and one after a special token: with `legacy` (and before that existed) both get a space."""
    tokenizer = load_tokenizer(folder(tmp_path / "llm", model, legacy))
    prompter = Prompter(catalog.template("llama-2"), tokenizer, 1)
    slow = Slow(model, legacy is not False, {}, {})
    for text in TEXTS:
        assert [i for i, _ in prompter._words.encode(text)] == slow.encode(text, False).ids, text
        behind = [i for i, _ in prompter._words.encode(text, continues=True)]
        assert behind == slow.encode("</s>" + text, False).ids[1:], text
        for _, characters in prompter._words.encode(text):
            assert 0 <= characters.start < characters.stop <= len(text)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_question_that_is_a_picture_has_llamas_published_ids(tmp_path, legacy):
    """sentencepiece puts its space before ` ASSISTANT:` too: `▁▁`, `ASS`, `IST`, `ANT`, and not `▁A`, `SS`, …"""
    tokenizer = load_tokenizer(folder(tmp_path / "llm", with_llamas_ids(), legacy))
    ids = Prompter(catalog.template("brief"), tokenizer, 1).encode([Turn("user", "", 1)]).ids
    assert ids[ids.index(IMAGE) + 1 :] == [259, 22933, 9047, 13566, OF_LLAMA[":"]]


def test_saved_and_read_again_it_is_the_same_tokenizer(tmp_path, model):
    """A stage writes tokenizer.json beside what it trains."""
    for legacy in (True, False, None):
        tokenizer = load_tokenizer(folder(tmp_path / f"{legacy}", model, legacy))
        tokenizer.save_pretrained(tmp_path / f"{legacy}-again")
        again = load_tokenizer(tmp_path / f"{legacy}-again")
        for turns in ([Turn("user", "", 1)], [Turn("user", "What?", 1), Turn("assistant", "It"), Turn("user", " a")]):
            one, two = (Prompter(catalog.template("llama-2"), t, 1).encode(turns).ids for t in (tokenizer, again))
            assert one == two


@pytest.mark.parametrize("held", [b"", b"IQ== 0\nIg== 1\n", b"\x0a\xff\xff"])
def test_a_broken_model_is_named_and_no_other_library(tmp_path, model, held):
    where = folder(tmp_path / "llm", model, True)
    (where / "tokenizer.model").write_bytes(held)
    with pytest.raises(DataError, match=r"tokenizer\.model: sentencepiece cannot read it") as caught:
        load_tokenizer(where)
    assert "tiktoken" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no readable tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "tiktoken" not in str(caught.value)
