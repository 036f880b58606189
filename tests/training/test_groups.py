"""The loss as a mean of groups' means: equal to its definition for any split; without it nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from remora.model.vlm import IGNORE, IMAGE
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.training.groups import count_groups, weigh_groups

ANSWERS = (9, 1, 4, 2, 7, 3, 0, 0, 5, 6, 1)
"""Supervised tokens of a step's samples; the seventh and eighth teach nothing."""


class Data:
    """What groups read of a step's data: 11 samples from position 22 on."""

    seed = 1 << 40

    def __init__(self, groups):
        self.stage = type("Stage", (), {"loss_groups": groups})

    def positions(self, step):
        return range(11 * step, 11 * step + 11)


def sample(i: int, n: int):
    ids = [IMAGE, IMAGE] * (i % 2) + [2 + (3 * i + k) % 60 for k in range(4 + n)]
    labels = [IGNORE] * (len(ids) - n) + ids[len(ids) - n :]
    return Tokens(ids, labels, i % 2), [torch.full((3, 4, 4), i / 11)] * (i % 2)


def batches_of(shares, rows):
    made = []
    for share in shares:
        keys = [Data.seed + 22 + i for i in share]
        made.append(collate([sample(i, ANSWERS[i]) for i in share], 1, 4, keys, rows))
    return made


def losses_of(model) -> list[torch.Tensor]:
    """Each sample's cross entropies, computed alone."""
    found = []
    for i, n in enumerate(ANSWERS):
        tokens, pictures = sample(i, n)
        batch = collate([(tokens, pictures)], 1, 4)
        hidden = model.llm.model(inputs_embeds=model.embed(batch.ids, batch.pixels)).last_hidden_state
        scores = model.llm.lm_head(hidden)[0, :-1]
        found.append(
            F.cross_entropy(scores, batch.labels[0, 1:], reduction="none", ignore_index=IGNORE)[len(scores) - n :]
        )
    return found


def by_definition(model, groups) -> torch.Tensor:
    each = losses_of(model)
    held = [torch.cat(each[i : i + groups]) for i in range(0, 11, groups)]
    return torch.stack([g.mean() for g in held if len(g)]).mean()


SPLITS = [
    [[list(range(11))]],
    [[[0, 3, 5], [1, 2]], [[4, 6, 7], [8, 9, 10]]],
    [[[10], [9], [8]], [[7, 0], [6, 1], [5, 2, 4, 3]]],
]
"""Ranks, their passes, a pass's samples."""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 11, 50])
def test_the_loss_and_its_gradients_are_those_of_the_definition_in_any_split(tiny_model, groups, rows):
    from remora.model.patches.attention import attend_per_sample

    expected = by_definition(tiny_model, groups)
    expected.backward()
    slopes = {n: p.grad.clone() for n, p in tiny_model.named_parameters() if p.grad is not None}
    attend_per_sample(tiny_model.llm)
    data = Data(groups)
    for split in SPLITS:
        tiny_model.zero_grad()
        ranks = [batches_of(passes, rows) for passes in split]
        counts = [sum(c) for c in zip(*(count_groups(data, 2, rank) for rank in ranks), strict=True)]
        tokens = sum(b.supervised for rank in ranks for b in rank)
        assert sum(counts) == tokens == sum(ANSWERS)
        total = 0.0
        for rank in ranks:
            for batch in weigh_groups(data, 2, rank, counts):
                loss = tiny_model(batch) / tokens
                loss.backward()
                total += loss.item()
        assert total == pytest.approx(expected.item(), rel=1e-5)
        for name, slope in slopes.items():
            found = dict(tiny_model.named_parameters())[name].grad
            torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_without_groups_no_batch_is_weighed(tiny_model):
    (batch,) = batches_of([list(range(11))], "padded")
    assert count_groups(Data(None), 2, [batch]) == []
    assert weigh_groups(Data(None), 2, [batch], []) == [batch] and batch.weights is None
    one = tiny_model(batch)
    (weighed,) = weigh_groups(Data(11), 2, [batch], count_groups(Data(11), 2, [batch]))
    assert torch.equal(weighed.weights[:6], torch.ones(6)) and torch.allclose(
        tiny_model(weighed), one
    )  # one group is the mean


def test_in_half_precision_it_is_the_same_weighing(tiny_model):
    (batch,) = batches_of([list(range(11))], "packed")
    (weighed,) = weigh_groups(Data(2), 2, [batch], count_groups(Data(2), 2, [batch]))
    from remora.model.patches.attention import attend_per_sample

    attend_per_sample(tiny_model.llm)
    with torch.no_grad():
        full = tiny_model(weighed).item()
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                assert tiny_model(weighed).item() == pytest.approx(full, rel=2e-2)
