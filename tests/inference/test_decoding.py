"""A row has the same logits in a batch as alone, in every class of the catalog, whichever rows join and leave."""

from __future__ import annotations

import random

import pytest
import torch

from remora import catalog
from remora.inference import Prompt, attention, llama
from remora.inference.attention import SLOTS
from remora.inference.decoding import Row, SlotBatch, WholeBatch, can_join, token_bytes
from remora.inference.sampling import NEAR
from remora.token_ids import IMAGE
from support.small_llms import CONFIGS, JOIN, OTHERS, PICTURES, WINDOWED, embeddings, llm_of, prompts

TAILS = [3, 9, 1, 14, 6, 2, 11, 5] * 4
"""32 prompts about 11 pictures."""
STEPS = 2
LARGEST = 1e-5
"""Largest difference between two logits, in parts of the largest logit: fp32 sums in another order."""


@pytest.fixture(autouse=True)
def small_savings_count(monkeypatch):
    """Rows about one picture read its keys together, as large models' do."""
    monkeypatch.setattr(attention, "SAVES", 0)


def said(prompt: Prompt) -> list[int]:
    return [2 + (sum(prompt.ids) + 31 * step) % 300 for step in range(STEPS)]


def alone(llm, prompt: Prompt) -> torch.Tensor:
    """Logits [STEPS + 1, V] of a row by itself: its whole prompt, then a token at a time."""
    one = WholeBatch(llm, [prompt], embeddings())
    return torch.cat([one.logits, *(one.step([token]) for token in said(prompt))])


def joining(llm, asked: list[Prompt], at_once: int, chunk: int = 7) -> torch.Tensor:
    """The same for all rows, [B, STEPS + 1, V]: so many join at each step, are read in pieces, and leave
    as soon as they are complete."""
    llm.set_attn_implementation(SLOTS)
    batch = SlotBatch(llm, 1 << 20)
    batch.resize(len(asked), max(len(prompt.ids) for prompt in asked) + STEPS)
    waiting, rows = list(range(len(asked))), dict[Row, int]()
    logits: list[list[torch.Tensor]] = [[] for _ in asked]
    while waiting or rows:
        for i in waiting[:at_once]:
            if not batch.is_read(asked[i]):
                rows[batch.join(asked[i])] = i
        waiting = [i for i in waiting if i not in rows.values()]
        saying = [(row, said(asked[i])[len(logits[i]) - 1]) for row, i in rows.items() if logits[i]]
        reading = [(row, min(chunk, row.unread)) for row in rows if row.unread]
        heard, found = batch.step(saying, reading, embeddings())
        for row, each in zip(heard, found, strict=True):
            logits[rows[row]].append(each)
        gone = [row for row in heard if len(logits[rows[row]]) == STEPS + 1]
        batch.leave(gone)
        rows = {row: i for row, i in rows.items() if row not in gone}
    return torch.stack([torch.stack(each) for each in logits])


def equal_lengths(llm, asked: list[Prompt]) -> torch.Tensor:
    """The same for prompts that start together and leave one after the other."""
    rows, batch = list(range(len(asked))), WholeBatch(llm, asked, embeddings())
    logits = [[each] for each in batch.logits]
    while rows:
        for i, each in zip(rows, batch.step([said(asked[i])[len(logits[i]) - 1] for i in rows]), strict=True):
            logits[i].append(each)
        gone = {row for row, i in enumerate(rows) if len(logits[i]) == STEPS + 1}
        rows = [rows[row] for row in batch.leave(gone)]
    return torch.stack([torch.stack(each) for each in logits])


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).abs().max()) <= LARGEST * float(expected.abs().max())


def test_every_class_of_the_catalog_is_here():
    types = {entry.config["model_type"] for entry in catalog.entries("llm").values()}
    assert types <= {c["model_type"] for c in CONFIGS.values()}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_do_not_depend_on_the_batch(name):
    llm, asked = llm_of(name), prompts(TAILS)
    with torch.inference_mode():
        assert can_join(llm, NEAR[torch.float32]) is JOIN[name]
        expected = torch.stack([alone(llm, prompt) for prompt in asked])
        assert expected.std() > 0.1  # they say something
        for at_once in (3, 32):
            mates = random.Random(at_once).sample(range(len(asked)), len(asked))
            if JOIN[name]:
                assert_near(joining(llm, [asked[i] for i in mates], at_once), expected[mates])
                continue
            for length in {len(prompt.ids) for prompt in asked}:
                some = [i for i in mates[: 2 * at_once] if len(asked[i].ids) == length]
                if some:
                    assert_near(equal_lengths(llm, [asked[i] for i in some]), expected[some])


@pytest.mark.parametrize("name", [name for name in CONFIGS if not JOIN[name] and name not in ("+llama", *WINDOWED)])
def test_those_that_do_not_join_would_be_wrong_if_they_did(name):
    llm, asked = llm_of(name), prompts(TAILS[:4])
    with torch.inference_mode():
        expected = torch.stack([alone(llm, prompt) for prompt in asked])
        try:
            found = joining(llm, asked, 2)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return
    assert float((found - expected).abs().max()) > 100 * LARGEST * float(expected.abs().max())


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(prompts([4, 2, 7], head=0), id="pictures first"),
        pytest.param(prompts([0, 0, 0], each=1), id="pictures last"),
        pytest.param(prompts([0, 0, 0], each=1, head=0), id="pictures only"),
        pytest.param(prompts([4, 2, 7], images=0), id="no pictures"),
        pytest.param(prompts([5, 5, 5]), id="no padding"),
        pytest.param(
            [
                Prompt((*[2, 3], *[IMAGE] * 4, *[w] * 3, *[IMAGE] * 4, 9, w), (PICTURES[0], PICTURES[p]))
                for w, p in ((5, 1), (6, 2))
            ],
            id="words between",
        ),
        pytest.param(
            [*prompts([4, 7], images=0), *prompts([3, 9], head=2), *prompts([2, 6], images=2), *prompts([0], head=1)],
            id="all kinds at once",
        ),
    ],
)
@pytest.mark.parametrize("at_once", [1, 9])
def test_prompts_of_any_shape(asked, at_once):
    llm = llm_of("smollm2-135m")
    with torch.inference_mode():
        assert_near(joining(llm, asked, at_once), torch.stack([alone(llm, prompt) for prompt in asked]))


def test_llama_like_models_have_a_pass_of_their_own(monkeypatch):
    """It computes what transformers' forward pass does over the same slots; attention with its own scale included."""
    fitting = {name for name in CONFIGS if llama.fits(llm_of(name))}
    assert fitting == {n for n in CONFIGS if CONFIGS[n]["model_type"] in ("llama", "qwen2", "qwen3")}
    assert not llama.fits(llm_of("smollm2-135m").bfloat16())
    for name in [name for name in fitting if JOIN[name]]:
        llm, asked = llm_of(name), prompts([3, 9, 1, 14])
        for layer in llm.model.layers:
            layer.self_attn.scaling *= 0.7
        passes = []
        own = llama.llama_pass
        monkeypatch.setattr(llama, "llama_pass", lambda *args, own=own, seen=passes: seen.append(1) or own(*args))
        with torch.inference_mode():
            found = joining(llm, asked, 3)
            assert passes
            monkeypatch.setattr(llama, "fits", lambda _: False)
            count = len(passes)
            assert_near(found, joining(llm, asked, 3))
            assert len(passes) == count
        monkeypatch.undo()


def test_what_rows_share_goes_through_the_model_once():
    llm, asked = llm_of("smollm2-135m"), prompts([1, 3, 4, 6, 9, 9])
    shapes = []
    llm.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, args: shapes.append(len(args[0])))
    with torch.inference_mode():
        joining(llm, asked, 6, chunk=99)
    # The first prompt. Then its token, the head's other picture, two tails about the first. Then their tokens and two
    # tails about the second picture, and so on.
    assert shapes == [10, 1 + 3 + 4 + 10, 1 + 3 + 9 + 9, 3 + 2, 2], shapes


def test_pieces_of_any_size_are_the_whole():
    llm, asked = llm_of("smollm2-135m"), prompts([4, 2, 7], images=2)
    with torch.inference_mode():
        expected = torch.stack([alone(llm, prompt) for prompt in asked])
        for chunk in (1, 2, 3, 5, 50):
            assert_near(joining(llm, asked, 3, chunk), expected)


def test_prefixes_are_kept_up_to_their_limit():
    """The most recently used entries stay; a prompt whose body was evicted is read again after its cached head."""
    llm, asked = llm_of("smollm2-135m"), prompts([3] * 4, each=1)
    body, head = asked[0].body * token_bytes(llm), asked[0].head * token_bytes(llm)
    with torch.inference_mode():
        assert can_join(llm, NEAR[torch.float32])
        batch, begun = SlotBatch(llm, 2 * body + head), []
        for i in (0, 1, 0, 2, 0, 1):
            batch.resize(1, 20)
            row = batch.join(asked[i])
            begun.append(row.tokens)
            batch.step([], [(row, row.unread)], embeddings())
            batch.leave([row])
            assert batch.kept.held <= 2 * body + head
        assert begun == [0, asked[0].head, asked[0].body, asked[0].head, asked[0].body, asked[0].head]


def test_the_memory_of_a_token_is_that_of_its_keys_and_values():
    assert token_bytes(llm_of("smollm2-135m")) == 2 * 2 * 1 * 4 * 4  # layers, keys and values, groups, width, fp32
    assert token_bytes(llm_of("+lfm2")) > 0


def test_a_model_that_takes_no_positions_does_not_join(monkeypatch):
    llm = llm_of("phi-2")
    forward = type(llm).forward

    def counting(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    def refusing(self, *args, **kwargs):
        if "position_ids" in kwargs:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return forward(self, *args, **kwargs)

    for other in (counting, refusing):
        monkeypatch.setattr(type(llm), "forward", other)
        assert not can_join(llm, NEAR[torch.float32])
    monkeypatch.undo()
    assert can_join(llm, NEAR[torch.float32])


def test_the_classes_that_need_care_are_those_that_no_entry_has():
    settings = {"llama", "qwen3", "phi3"}
    """Entries have these classes with other settings."""
    assert not set(OTHERS) & {entry.config["model_type"] for entry in catalog.entries("llm").values()} - settings
