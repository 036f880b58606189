"""A row of a batch has the logits that it has alone, in every class of the catalog, whoever its mates are."""

from __future__ import annotations

import random

import pytest
import torch
from small_llms import CONFIGS, OTHERS, SHARE, WINDOWED, llm_of, pictures, rows

from remora import catalog
from remora.inference import reading
from remora.inference.reading import can_share, read_shared, read_whole, token_bytes
from remora.inference.rows import Row, plan
from remora.marks import IMAGE

TAILS = [3, 9, 1, 14, 6, 2, 11, 5] * 4
"""32 rows about 11 pictures."""
STEPS = 2
LARGEST = 1e-5
"""Largest difference between two logits, in parts of the largest logit: fp32 sums in another order."""


def said(row: Row) -> list[int]:
    return [2 + (sum(row.ids) + 31 * step) % 300 for step in range(STEPS)]


def alone(llm, row: Row) -> torch.Tensor:
    """Logits [STEPS + 1, V] of a row by itself: its whole prompt, then a token at a time."""
    one = read_whole(llm, [row], pictures())
    logits = [one.logits[0]]
    for token in said(row):
        one.step(llm, torch.tensor([token]))
        logits.append(one.logits[0])
    return torch.stack(logits)


def together(llm, batch: list[Row], padded: bool) -> torch.Tensor:
    """The same of a batch, [B, STEPS + 1, V]."""
    read = read_shared(llm, batch, pictures()) if padded else read_whole(llm, batch, pictures())
    logits = [read.logits]
    for tokens in torch.tensor([said(row) for row in batch]).T:
        read.step(llm, tokens)
        logits.append(read.logits)
    return torch.stack(logits, 1)


def test_every_class_of_the_catalog_is_here():
    types = {entry.config["model_type"] for entry in catalog.entries("llm").values()}
    assert types <= {c["model_type"] for c in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_do_not_depend_on_the_batch(name):
    llm, asked = llm_of(name), rows(TAILS, limit=STEPS)
    with torch.inference_mode():
        assert can_share(llm) is SHARE[name]
        expected = [alone(llm, row) for row in asked]
        assert torch.stack(expected).std() > 0.1  # they say something
        for most, fewest in ((2, 16), (7, 6), (32, 1)):
            mates = random.Random(most).sample(range(len(asked)), len(asked))
            batches = list(plan([asked[i] for i in mates], SHARE[name], most, 10**9))
            assert sorted(i for batch in batches for i in batch) == list(range(32))
            assert not SHARE[name] or len(batches) == fewest
            for batch in batches:
                logits = together(llm, [asked[mates[i]] for i in batch], SHARE[name])
                for i, found in zip(batch, logits, strict=True):
                    wanted = expected[mates[i]]
                    assert float((found - wanted).abs().max()) <= LARGEST * float(wanted.abs().max())


@pytest.mark.parametrize("name", [name for name in CONFIGS if not SHARE[name] and name not in ("+llama", *WINDOWED)])
def test_those_that_do_not_share_would_be_wrong_if_they_did(name):
    llm, asked = llm_of(name), rows(TAILS[:4], limit=STEPS)
    with torch.inference_mode():
        expected = torch.stack([alone(llm, row) for row in asked])
        try:
            found = together(llm, asked, padded=True)
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return
    assert float((found - expected).abs().max()) > 100 * LARGEST * float(expected.abs().max())


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(rows([4, 2, 7], images=2, limit=STEPS), id="two pictures each"),
        pytest.param(rows([4, 2, 7], head=0, limit=STEPS), id="pictures first"),
        pytest.param(rows([0, 0, 0], each=1, limit=STEPS), id="pictures last"),
        pytest.param(rows([0, 0, 0], each=1, head=0, limit=STEPS), id="pictures alone"),
        pytest.param(rows([4, 2, 7], images=0, limit=STEPS), id="no pictures"),
        pytest.param(rows([5, 5, 5], limit=STEPS), id="no padding"),
        pytest.param(
            [
                Row((*[2, 3], IMAGE, IMAGE, IMAGE, IMAGE, *[w] * 3, *[IMAGE] * 4, 9, w), (0, p), STEPS)
                for w, p in ((5, 1), (6, 2))
            ],
            id="words between",
        ),
    ],
)
def test_prompts_of_any_shape(batch):
    llm = llm_of("smollm2-135m")
    with torch.inference_mode():
        expected = torch.stack([alone(llm, row) for row in batch])
        torch.testing.assert_close(
            together(llm, batch, True), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
        )


def test_what_rows_share_goes_through_the_model_once(monkeypatch):
    llm, asked = llm_of("smollm2-135m"), rows([1, 3, 4, 6, 9, 9], limit=STEPS)
    shapes = []
    see = lambda _, args, kwargs: shapes.append(tuple(args[0].shape[:2]))  # noqa: E731
    llm.model.layers[0].register_forward_pre_hook(see, with_kwargs=True)
    with torch.inference_mode():
        together(llm, asked, True)
        assert shapes == [(1, 5), (2, 4), (6, 9)] + [(6, 1)] * STEPS  # the head, two pictures, six tails, tokens
        shapes.clear()
        monkeypatch.setattr(reading, "PASS", 12)
        found = together(llm, asked, True)
        expected = torch.stack([alone(llm, row) for row in asked])
    passes = [(1, 5), (2, 4), (3, 4), (1, 6), (1, 9), (1, 9)]  # of rows of more equal length
    assert shapes[:8] == passes + [(6, 1)] * STEPS
    torch.testing.assert_close(found, expected, rtol=0, atol=LARGEST * float(expected.abs().max()))


def test_rows_that_leave_change_nothing_for_those_that_stay():
    for name in ("smollm2-135m", "+mistral", "+lfm2"):
        llm, asked = llm_of(name), rows([6, 6, 6, 6] if not SHARE[name] else [3, 9, 1, 6], limit=STEPS)
        with torch.inference_mode():
            expected = torch.stack([alone(llm, row) for row in asked])[[1, 3]]
            batch = read_shared(llm, asked, pictures()) if SHARE[name] else read_whole(llm, asked, pictures())
            tokens = torch.tensor([said(row) for row in asked])
            batch.step(llm, tokens[:, 0])
            batch.keep(torch.tensor([1, 3]))
            for step in range(1, STEPS):
                batch.step(llm, tokens[[1, 3], step])
            scale = float(expected.abs().max())
            torch.testing.assert_close(batch.logits, expected[:, STEPS], rtol=0, atol=LARGEST * scale)


def test_the_memory_of_a_token_is_that_of_its_keys_and_values():
    assert token_bytes(llm_of("smollm2-135m")) == 2 * 2 * 1 * 4 * 4  # layers, keys and values, groups, width, fp32
    assert token_bytes(llm_of("+lfm2")) > 0


def test_a_model_that_takes_no_positions_does_not_share(monkeypatch):
    llm = llm_of("smollm2-135m")
    forward = type(llm).forward

    def counting(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    def refusing(self, *args, **kwargs):
        if "position_ids" in kwargs:
            raise TypeError("forward() got an unexpected keyword argument 'position_ids'")
        return forward(self, *args, **kwargs)

    for other in (counting, refusing):
        monkeypatch.setattr(type(llm), "forward", other)
        assert not can_share(llm)
    monkeypatch.undo()
    assert can_share(llm)


def test_the_classes_that_need_care_are_those_that_no_entry_has():
    settings = {"llama", "qwen3", "phi3"}
    """Entries have these classes with other settings."""
    assert not set(OTHERS) & {entry.config["model_type"] for entry in catalog.entries("llm").values()} - settings
