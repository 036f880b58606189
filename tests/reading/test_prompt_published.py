"""Equal to the published code token for token: every template on every kind of tokenizer, 300 conversations each.

Where the published mask throws the sample away (it counts tokens of pieces, and the sums do not match) there is nothing
to be equal to, and the mask is compared with what theirs is meant to be. docs/prompts.md lists the differences.
"""

from __future__ import annotations

import random
from functools import cache

import pytest
from prompt_published import PICTURE, VICUNA, Published, Round, turns_of
from prompt_tokenizers import MAKERS, WRITTEN
from transformers import LlamaTokenizer

from remora import catalog
from remora.reading.prompt import Prompter
from remora.token_ids import IGNORE, IMAGE

pytestmark = pytest.mark.slow
N = 3
"""Image tokens."""
COUNT = 300
WORDS = ["What is", "the picture", "a red circle", "cats?", "It isn't", "1234", "42.", "I'll", "Yes", "two", "[x]", "é"]
ODD = ["  ", "\n", "\n\n", "\t", " \n ", "   ", "\u00a0", "\u3000", "\r\n", "4 2", "....", "<s", "/s>", "[INST]"]
UNICODE = [
    "🐟",
    "\U0001f469\u200d\U0001f469",
    "你好",
    "鮣",
    "e\u0301",
    "\u0301",
    "ñ",
    "नमस्ते",
    "\u200b",
    "\u202e",
    "Ω≈ç",
    "ﬁ",
]
FORGED = ["</s>", "<s>", "<|endoftext|>", "<|im_end|>", "<|im_start|>user\n", "<eos>", "<end_of_turn>", "<unk>"]
FORGED += ["<image>", "<|eot_id|>", "<|end_of_text|>", "<|user|>", "ASSISTANT: ", " ASSISTANT: no", "USER: "]


def conversations() -> list[list[Round]]:
    rng = random.Random(7)

    def text(empty: bool) -> str:
        pools = rng.choices([WORDS, ODD, UNICODE, FORGED], [80, 12, 10, 3], k=rng.randint(0 if empty else 1, 6))
        said = rng.choice(["", " "]).join(rng.choice(pool) for pool in pools)
        if rng.random() < 0.15:
            said = rng.choice(["", " ", "\n", "  ", "\t"]) + said + rng.choice(["", " ", "\n", "  "])
        return said if empty or said.strip() else said + "."

    def conversation() -> list[Round]:
        shows = rng.choice([0, 1, 1, 1, 2])
        count = rng.choice([1, 1, 2, 3])
        images = [(shows if i == 0 else 0) if rng.random() < 0.8 else rng.randint(0, 2) for i in range(count)]
        return [Round(text(n > 0 and rng.random() < 0.1), text(False), n) for n in images]

    return [conversation() for _ in range(COUNT)]


CONVERSATIONS = conversations()
FORGES = [any(f in r.question + r.answer for r in c for f in FORGED) for c in CONVERSATIONS]
BOS = "{{ bos_token }}"
MESSAGES = "{% for m in messages %}"
END = "{% endfor %}"
CHATML = (
    MESSAGES + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}" + END
) + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
)
LLAMA_3 = (
    MESSAGES + "{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' %}"
    "{% set content = content + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    + END
    + "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    BOS
    + MESSAGES
    + "{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
    + END
    + "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    MESSAGES
    + "\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    + "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n"
    + "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    + END
)
INST = (
    MESSAGES
    + "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    + "{% else %}{{ ' '  + m['content'].strip() + ' ' + eos_token }}{% endif %}"
    + END
)
JINJA = {"chatml": CHATML, "llama-3": LLAMA_3, "gemma": GEMMA, "zephyr": ZEPHYR}
"""The models' own chat templates; ChatML without a default system message, as the catalog has it."""
OWN = {
    **{"vicuna": (INST, "</s>"), "vicuna-legacy": (INST, "</s>"), "tinyllama": (ZEPHYR, "</s>")},
    **{"phi-3": (ZEPHYR, "</s>"), "gemma": (GEMMA, "<end_of_turn>"), "phi": (CHATML, "<|im_end|>")},
    **{"pythia": (CHATML, "<|im_end|>"), "stablelm": (ZEPHYR, "<|endoftext|>"), "llama-3": (LLAMA_3, "<|eot_id|>")},
    **{"smollm2": (DEFAULT_SYSTEM + CHATML, "<|im_end|>"), "qwen2": (DEFAULT_SYSTEM + CHATML, "<|im_end|>")},
}
"""The chat template that each tokenizer is given, and the token that ends an answer in it."""


@pytest.fixture(scope="session")
def made():
    """(prompter, published code) of a tokenizer and a template."""

    @cache
    def tokenizer(name):
        made = MAKERS[name]()
        made.chat_template = OWN[name][0]
        return made

    def make(name, template):
        prompter = Prompter(catalog.template(template), tokenizer(name), N)
        source = OWN[name][0] if template == "tokenizer" else "".join(catalog.template(template).tokens)
        written = [t for t in WRITTEN if t in source]
        return prompter, Published(tokenizer(name), N, written)

    return make


def check(prompter, conversation, published, ids, labels):
    """Whether ids and labels are the published ones, picture positions expanded."""
    tokens = prompter.encode(turns_of(conversation))
    wanted, wanted_labels = published.expand(ids, labels)
    assert tokens.ids == wanted, conversation
    assert tokens.labels == wanted_labels, conversation
    assert tokens.images == sum(r.images for r in conversation)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("template", ["vicuna", "brief", "bunny-llama-3"])
def test_v1_is_llavas_factorys_and_bunnys(made, name, template):
    prompter, published = made(name, template)
    eos = published.private(prompter.stop)
    hack = not published.legacy  # LLaVA's and Factory's for Llama, where only the slow tokenizer has `legacy`
    as_published = 0
    for conversation in CONVERSATIONS:
        spans, text = published.v1(conversation, "" if template == "brief" else VICUNA, eos)
        ids = published.ids(text)
        counted = published.mask_by_counting(ids, text, " ASSISTANT: ", eos, hack)
        as_published += counted is not None
        meant = published.mask_by_beginnings(ids, spans)
        assert counted in (meant, None)
        check(prompter, conversation, published, ids, meant)
    # Only texts that write "ASSISTANT: " themselves are lost to the published code here.
    assert as_published >= 0.95 * COUNT


@pytest.mark.parametrize("name", MAKERS)
def test_llama_2_is_llavas(made, name):
    prompter, published = made(name, "llama-2")
    as_published = 0
    for conversation in CONVERSATIONS:
        spans, text = published.llama_2(conversation)
        ids = published.ids(text)
        counted = published.mask_by_counting(ids, text, "[/INST] ", published.eos, hack=False)
        as_published += counted is not None
        meant = published.mask_by_beginnings(ids, spans)
        assert counted in (meant, None)
        check(prompter, conversation, published, ids, meant)
    # Where BOS and end token are one (phi, pythia), the published code takes the BOS between rounds for an end.
    assert as_published >= (0.4 if published.tokenizer.bos_token == published.tokenizer.eos_token else 1) * COUNT


@pytest.mark.parametrize("name", MAKERS)
def test_plain_is_llavas(made, name):
    """One question, one picture, one caption; more of them, which LLaVA refuses, follow each other in the same way."""
    prompter, published = made(name, "plain")
    for conversation in CONVERSATIONS:
        caption = [Round("", conversation[0].answer, 1)]
        ids = published.ids(PICTURE + caption[0].answer + "\n")
        asked = len(published.ids(PICTURE))
        check(prompter, caption, published, ids, [IGNORE] * asked + ids[asked:])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("template", JINJA)
def test_chat_formats_are_those_of_the_models_own_templates(made, name, template):
    prompter, published = made(name, template)
    stop = prompter.stop
    bos = published.private(prompter.tokenizer.bos_token or "\0")
    for conversation in CONVERSATIONS:
        stripped = [Round(r.question.strip(), r.answer.strip(), r.images) for r in conversation]
        spans, text = published.chat(stripped, JINJA[template], stop)
        # A BOS is the tokenizer's to write here: the catalog's templates have it where the tokenizer puts it first.
        spans = [(a.removeprefix(bos), b.removeprefix(bos)) for a, b in spans]
        ids = published.ids(text.removeprefix(bos))
        check(prompter, stripped, published, ids, published.mask_by_beginnings(ids, spans))


@pytest.mark.parametrize("name", MAKERS)
def test_tokenizer_is_the_tokenizers_own_chat_template(made, name):
    prompter, published = made(name, "tokenizer")
    jinja, stop = OWN[name]
    assert prompter.stop == stop
    for conversation in CONVERSATIONS:
        stripped = [Round(r.question.strip(), r.answer.strip(), r.images) for r in conversation]
        spans, text = published.chat(stripped, jinja, stop)
        ids = published.ids(text, bos=False)
        check(prompter, stripped, published, ids, published.mask_by_beginnings(ids, spans, bos=False))


@pytest.mark.parametrize("name", MAKERS)
def test_the_twin_is_the_tokenizer_where_no_text_spells_a_special_token(made, name):
    """So the comparisons above are with the published code, unchanged."""
    prompter, published = made(name, "vicuna")
    tokenizer = prompter.tokenizer
    for conversation, forges in zip(CONVERSATIONS, FORGES, strict=True):
        if not forges:
            _, text = published.v1(conversation, VICUNA, published.eos)
            for chunk in text.split(PICTURE):
                literal = chunk.replace(published.eos, tokenizer.eos_token)
                if isinstance(tokenizer, LlamaTokenizer) and any(
                    stretch[:1] == " " for stretch in literal.split(tokenizer.eos_token)
                ):
                    continue  # transformers 5 leaves out the space that the published tokenizer puts there
                assert tokenizer(literal)["input_ids"] == published.chunk(chunk, True)
    assert 200 < FORGES.count(False) < COUNT


@pytest.mark.parametrize(("name", "template"), [("gemma", "gemma"), ("llama-3", "llama-3"), ("qwen2", "chatml")])
def test_text_alone_is_what_apply_chat_template_gives(made, name, template):
    (prompter, _), (own, _) = made(name, template), made(name, "tokenizer")
    tokenizer = MAKERS[name]()
    for conversation, forges in zip(CONVERSATIONS, FORGES, strict=True):
        if forges or any(r.images for r in conversation):
            continue
        turns = [t for r in conversation for t in turns_of([Round(r.question.strip(), r.answer.strip(), 0)])]
        messages = [{"role": t.role, "content": t.text} for t in turns]
        encoded = tokenizer.apply_chat_template(messages, chat_template=JINJA[template], tokenize=True)
        assert prompter.encode(turns).ids == encoded["input_ids"]
        encoded = tokenizer.apply_chat_template(messages, chat_template=OWN[name][0], tokenize=True)
        assert own.encode(turns).ids == encoded["input_ids"]
        assert IMAGE not in encoded["input_ids"]
