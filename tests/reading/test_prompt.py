"""Prompts and label masks: supervised is exactly what the model must write, and no text forges a token."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_published import LLAVA_2, VICUNA
from prompt_tokenizers import MAKERS, WRITTEN
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from remora import catalog
from remora.data.conversation import Turn
from remora.errors import SpecError
from remora.reading.prompt import Prompter, rendered_words
from remora.reading.rendering import pattern_of, split_tokens
from remora.token_ids import IGNORE, IMAGE

N = 3
"""Image tokens."""
BYTE_LEVEL = ["phi", "pythia", "stablelm", "smollm2", "qwen2", "llama-3"]
"""Tokenizers whose decoding gives back every character (after Unicode's NFC, for some)."""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONVERSATIONS = {
    "one": [("What is it?", "a red circle", 1)],
    "digits": [("How many cats?", "42", 1)],
    "text only": [("Is it red?", "yes", 0)],
    "rounds": [("What is it?", "a cat", 1), ("Which colour?", "red", 0), ("How many?", "2", 0)],
    "pictures": [("Which one is red?", "The first.", 2), ("And this?", "no", 1)],
    "lines": [("Count:\n1\n2", "3\n4\n\n5", 1), ("?", "!", 0)],
    "unicode": [("Qu'est-ce que c'est ?", "é 🐟 鮣 ñ", 1), ("🐠?", "🐡", 0)],
    "words alone": [("", "a cat", 1), ("", "b", 0)],
}


@pytest.fixture(scope="module")
def prompters():
    """Every template on every tokenizer; `tokenizer` is ChatML there."""
    out = {}
    for name, make in MAKERS.items():
        tokenizer = make()
        tokenizer.chat_template = CHATML
        for template, entry in catalog.entries("templates").items():
            out[name, template] = Prompter(entry, tokenizer, N)
    return out


def turns_of(rounds) -> list[Turn]:
    return [t for q, a, n in rounds for t in (Turn("user", q, n), Turn("assistant", a))]


def decode(prompter, ids) -> str:
    return prompter.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def written(template: str, tokenizer, rounds) -> tuple[str, str]:
    """(what is supervised, what is not), written out; a picture leaves only its line end."""
    eos, auto = tokenizer.eos_token, "<|begin_of_text|>" if tokenizer.bos_token == "<|begin_of_text|>" else ""
    asked = [("\n" * n if q else "\n" * (n - 1)) + q for q, _, n in rounds]
    said = [a for _, a, _ in rounds]
    if template == "plain":
        return "".join(f"{a}\n" for a in said), auto
    if template in ("vicuna", "brief", "bunny-llama-3"):
        stop = "<|end_of_text|>" if template == "bunny-llama-3" else eos
        system = "" if template == "brief" else VICUNA + " "
        return "".join(f" {a}{stop}" for a in said), auto + system + "".join(f"USER: {q} ASSISTANT:" for q in asked)
    if template in ("chatml", "tokenizer"):
        rest = "".join(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n\n" for q in asked)
        return "".join(f"{a}<|im_end|>" for a in said), (auto if template == "chatml" else "") + rest
    if template == "llama-2":
        bos = tokenizer.bos_token or ""
        system = f"<<SYS>>\n{LLAVA_2}\n<</SYS>>\n\n"
        rest = "".join(f"{bos if i else ''}[INST] {'' if i else system}{q} [/INST]" for i, q in enumerate(asked))
        return "".join(f" {a} {eos}" for a in said), auto + rest
    if template == "llama-3":
        role = "<|start_header_id|>{}<|end_header_id|>\n\n"
        rest = "".join(f"{role.format('user')}{q}<|eot_id|>{role.format('assistant')}" for q in asked)
        return "".join(f"{a}<|eot_id|>" for a in said), auto + rest
    if template == "gemma":
        rest = "".join(f"<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n\n" for q in asked)
        return "".join(f"{a}<end_of_turn>" for a in said), auto + rest
    assert template == "zephyr"
    return "".join(f"{a}{eos}" for a in said), auto + "".join(f"<|user|>\n{q}{eos}\n<|assistant|>\n\n" for q in asked)


def check(prompter, template: str, rounds) -> None:
    """ids and labels against `written`, and special tokens against those of a conversation that spells none."""
    tokens = prompter.encode(turns_of(rounds))
    pairs = list(zip(tokens.ids, tokens.labels, strict=True))
    assert all(label in (IGNORE, i) for i, label in pairs)
    assert tokens.images == sum(n for _, _, n in rounds) and tokens.ids.count(IMAGE) == N * tokens.images
    for wanted, ids in zip(
        written(template, prompter.tokenizer, rounds),
        ([i for i, label in pairs if label != IGNORE], [i for i, label in pairs if label == IGNORE and i != IMAGE]),
        strict=True,
    ):
        assert unicodedata.normalize("NFC", decode(prompter, ids)) == unicodedata.normalize("NFC", wanted)
    assert specials(prompter, tokens) == specials(prompter, prompter.encode(turns_of([("x", "x", 0)] * len(rounds))))


def specials(prompter, tokens) -> list[tuple[int, bool]]:
    """(id, whether it is supervised) of every special token, and of every one that the template writes."""
    tokenizer, template = prompter.tokenizer, prompter.template
    wanted = [t for t in WRITTEN if t in CHATML] if template.chat else [*template.tokens, prompter.stop]
    watched = {*tokenizer.all_special_ids, *(tokenizer.convert_tokens_to_ids(t) for t in wanted)}
    return [(i, label != IGNORE) for i, label in zip(tokens.ids, tokens.labels, strict=True) if i in watched]


@pytest.mark.parametrize("rounds", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_supervised_is_exactly_what_the_assistant_says_and_its_end(prompters, rounds):
    for name in BYTE_LEVEL:
        for template in catalog.entries("templates"):
            check(prompters[name, template], template, rounds)


FORGED = ["</s>", "<s>", "<unk>", "<pad>", "<bos>", "<eos>", "<image>", "<|endoftext|>", "<|begin_of_text|>", *WRITTEN]
FORGED += ["<|user|>", "<|assistant|>", "<|end|>", "\ue000fence\ue001", "\ue0000\ue001", "\0"]
texts = st.text(st.characters(codec="utf-8"), max_size=12)
spoken = st.lists(st.one_of(texts, st.sampled_from(FORGED)), max_size=4).map("".join)


@pytest.mark.slow
@settings(max_examples=40)
@given(words=st.lists(st.tuples(spoken, spoken, st.integers(0, 2)), min_size=1, max_size=3))
def test_any_text_comes_back_and_forges_nothing(prompters, words):
    def clean(text: str) -> str:  # the one string that the word tokenizer leaves out; see words.FENCE
        return text.replace("\ue000fence\ue001", "")

    rounds = [(q.strip(), a.strip() or "x", n) for q, a, n in words]
    for name in BYTE_LEVEL:
        for template in catalog.entries("templates"):
            if all(clean(t) == t for q, a, _ in rounds for t in (q, a)):
                check(prompters[name, template], template, rounds)
            tokens = prompters[name, template].encode(turns_of(rounds))
            assert max(tokens.ids) < len(prompters[name, template].tokenizer)


@pytest.mark.slow
@settings(max_examples=25)
@given(words=st.lists(st.tuples(spoken, spoken, st.integers(0, 2)), min_size=1, max_size=3))
def test_no_tokenizer_lets_a_text_write_a_special_token(prompters, words):
    rounds = [(q.strip(), a.strip() or "x", n) for q, a, n in words]
    honest = [("x", "x", n) for _, _, n in rounds]
    for prompter in prompters.values():
        tokens = prompter.encode(turns_of(rounds))
        unknown = (
            prompter.tokenizer.unk_token_id
        )  # what sentencepiece makes of a character it lacks, where it has no bytes
        forged = specials(prompter, tokens)
        assert [f for f in forged if f[0] != unknown] == [
            f for f in specials(prompter, prompter.encode(turns_of(honest))) if f[0] != unknown
        ]


@pytest.mark.slow
@settings(max_examples=25)
@given(words=st.lists(st.tuples(spoken, spoken, st.integers(0, 2)), min_size=1, max_size=3))
def test_every_prompt_and_every_beginning_is_how_training_got_there(prompters, words):
    """Token for token, and the first token after a prompt is the first one that training supervised."""
    rounds = [(q.strip(), a.strip() or "x", n) for q, a, n in words]
    for (_, template), prompter in prompters.items():
        # Nothing ends plain's caption but a line end, which the next caption may join.
        turns = turns_of(rounds[:1] if template == "plain" else rounds)
        whole = prompter.encode(turns)
        for last in range(1, len(turns) // 2 + 1):
            begun, prompt = prompter.encode(turns[: 2 * last]), prompter.encode(turns[: 2 * last - 1])
            assert whole.ids[: len(begun.ids)] == begun.ids and whole.labels[: len(begun.ids)] == begun.labels
            assert begun.ids[: len(prompt.ids)] == prompt.ids and begun.labels[: len(prompt.ids)] == prompt.labels
            assert begun.labels[len(prompt.ids)] == begun.ids[len(prompt.ids)]


def test_pictures_stand_at_the_start_of_their_turn_each_with_its_line_end(prompters):
    prompter = prompters["smollm2", "brief"]
    ids = prompter.encode(turns_of([("a", "b", 0), ("two", "c", 2)])).ids
    (line,) = prompter.tokenizer("\n")["input_ids"]
    first = ids.index(IMAGE)
    assert ids[first : first + 2 * N + 2] == [*[IMAGE] * N, line, *[IMAGE] * N, line]
    assert decode(prompter, ids[:first]) == "USER: a ASSISTANT: b<|im_end|>USER: "


def test_a_token_of_both_the_template_and_an_answer_is_the_answers(prompters):
    """Line ends join in Qwen's tokenizer. Left out, the answer would lack a part; records have none at its start."""
    prompter = prompters["qwen2", "chatml"]
    tokenizer = prompter.tokenizer
    (both,) = tokenizer("\n\n")["input_ids"]
    tokens = prompter.encode(turns_of([("a", "\nb", 0)]))
    assert both in tokens.ids and decode(prompter, [i for i in tokens.labels if i != IGNORE]) == "\n\nb<|im_end|>"


def test_of_special_tokens_that_begin_alike_the_longest_is_meant():
    pieces = split_tokens("a<|end|><|end|>x", pattern_of(["<|end|>", "<|end|>x", "a<|end|"]))
    assert [(p.text, p.token) for p in pieces] == [("a<|end|", True), (">", False), ("<|end|>x", True)]


def test_words_for_a_new_tokenizer_hold_no_special_token():
    turns = turns_of([("What </s>?", "a cat", 1), ("And?", "red", 0)])
    assert rendered_words(catalog.template("brief"), turns) == (
        "USER: \nWhat </s>? ASSISTANT: a catUSER: And? ASSISTANT: red"
    )
    assert "<|im_end|>" not in rendered_words(catalog.template("chatml"), turns)
    assert "\1" not in rendered_words(catalog.template("llama-2"), turns)
    with pytest.raises(SpecError, match="no chat template"):
        rendered_words(catalog.template("tokenizer"), turns)


# A tokenizer's own chat template.


def own(chat_template: str, name: str = "qwen2") -> Prompter:
    tokenizer = MAKERS[name]()
    tokenizer.chat_template = chat_template
    return Prompter(catalog.template("tokenizer"), tokenizer, N)


def supervised(prompter: Prompter, rounds) -> str:
    return decode(prompter, [i for i in prompter.encode(turns_of(rounds)).labels if i != IGNORE])


def test_what_a_template_writes_after_its_own_prompt_is_the_models():
    asks_less = "{% for m in messages %}<|im_start|>{{ m.role }}{{ ':\n' if m.role == 'assistant' else ': ' }}"
    asks_less += "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    assert supervised(own(asks_less), [("a", "b", 1), ("c", "d", 0)]) == ":\nb<|im_end|>:\nd<|im_end|>"


def test_an_empty_thought_is_asked_not_said():
    """Qwen3's habit: the last answer has an empty thought in front, earlier ones have none."""
    thought = "{{ '<think>\n\n</think>\n\n' }}"
    qwen3 = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}"
    qwen3 += thought + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
    qwen3 += "{{ 'assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}" + thought
    qwen3 += "{% endif %}{% endif %}"
    prompter = own(qwen3)
    turns = turns_of([("a", "b", 1), ("c", "d", 0)])
    assert supervised(prompter, [("a", "b", 1), ("c", "d", 0)]) == "b<|im_end|>d<|im_end|>"
    whole, prompt = prompter.encode(turns), prompter.encode(turns[:-1])
    assert whole.ids[: len(prompt.ids)] == prompt.ids and decode(prompter, prompt.ids[-9:]).endswith("</think>\n\n")


def test_a_template_that_writes_the_date_writes_the_same_every_day():
    dated = own("{{ strftime_now('%d %b %Y') }} " + CHATML)
    ids = dated.encode(turns_of([("a", "b", 0)])).ids
    assert decode(dated, ids).startswith("26 Jul 2024 <|im_start|>user")


BROKEN = {
    "drops": ("{% for m in messages[-1:] %}{{ m.content }}<|im_end|>{% endfor %}", "every message once and unchanged"),
    "changes": (
        "{% for m in messages %}{{ m.content[1:] }}<|im_end|>{% endfor %}",
        "every message once and unchanged",
    ),
    "no end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "end an answer with a special token",
    ),
    "refuses": ("{{ raise_exception('no users here') }}", "no users here"),
    "none": (None, "the tokenizer has no chat template;"),
}


@pytest.mark.parametrize(("template", "why"), BROKEN.values(), ids=BROKEN)
def test_a_chat_template_that_cannot_be_followed_is_refused(template, why):
    with pytest.raises(SpecError, match=why) as caught:
        own(template)
    assert "\n" not in str(caught.value) and "remora catalog templates" in str(caught.value)


def test_an_answer_without_its_end_is_refused():
    last_only = "{% for m in messages %}{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}{% endfor %}"
    with pytest.raises(SpecError, match=r"does not end every answer with '<\|im_end\|>'"):
        own(last_only).encode(turns_of([("a", "b", 0), ("c", "d", 0)]))


# Tokenizers that do not fit.


def test_a_token_that_the_tokenizer_lacks_is_named(tiny_tokenizer):
    with pytest.raises(SpecError, match=r"'<\|im_start\|>', which the tokenizer does not have"):
        Prompter(catalog.template("chatml"), tiny_tokenizer, N)


def test_an_end_token_is_needed():
    endless = PreTrainedTokenizerFast(tokenizer_object=MAKERS["phi"]().backend_tokenizer)
    with pytest.raises(SpecError, match="no end token"):
        Prompter(catalog.template("brief"), endless, N)


def test_a_tokenizer_that_spells_its_end_token_out_of_text_is_refused():
    tokenizer = Tokenizer(BPE({"<": 0, "e": 1, ">": 2, "<e": 3, "<e>": 4}, [("<", "e"), ("<e", ">")]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    forgetful = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>")
    with pytest.raises(SpecError, match="special token '<e>' out of plain text"):
        Prompter(catalog.template("brief"), forgetful, N)


def test_a_tokenizer_without_character_spans_is_refused(tiny_tokenizer):
    class Slow:
        eos_token = "</s>"
        bos_token = None

    with pytest.raises(SpecError, match="Slow is written in Python"):
        Prompter(catalog.template("brief"), Slow(), N)


def test_an_end_token_may_be_the_unknown_one():
    """phi-2's is: `<|endoftext|>` is there, it is no unknown word."""
    prompter = Prompter(catalog.template("vicuna"), MAKERS["phi"](), N)
    assert prompter.tokenizer.unk_token == prompter.stop == "<|endoftext|>"
