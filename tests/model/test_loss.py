"""The loss: the sum over supervised tokens, for any mix of pictures and text, against explicit logits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from remora.batch import Batch
from remora.token_ids import IGNORE, IMAGE

PAD = 1


def sample(length: int, pictures: tuple[int, ...], supervised: range, seed: int) -> tuple[list[int], list[int]]:
    ids = torch.randint(2, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    for at in pictures:
        ids[at : at + 2] = [IMAGE, IMAGE]
    return ids, [i if at in supervised else IGNORE for at, i in enumerate(ids)]


def batch_of(samples, pictures: int) -> Batch:
    longest = max(len(ids) for ids, _ in samples)
    ids = torch.tensor([ids + [PAD] * (longest - len(ids)) for ids, _ in samples])
    labels = torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in samples])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in samples])
    pixels = torch.rand(pictures, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    return Batch(ids, mask, labels, pixels, torch.arange(len(ids)), torch.arange(pictures))


MIXED = [
    sample(12, (1,), range(6, 12), 0),
    sample(9, (0, 4), range(7, 9), 1),  # two pictures, one at the very start
    sample(7, (), range(3, 7), 2),  # no picture
    sample(5, (), range(0, 5), 3),  # the first token has nothing before it to predict it
]


def written_out(model, batch: Batch) -> torch.Tensor:
    """All logits of a float64 model, row by row without padding: transformers' own forward pass."""
    total, picture = torch.zeros((), dtype=torch.float64), 0
    for ids, mask, labels in zip(batch.ids, batch.mask, batch.labels, strict=True):
        ids, labels = ids[mask == 1], labels[mask == 1]
        rows = []
        for at, i in enumerate(ids.tolist()):
            if i != IMAGE:
                rows.append(model.llm.get_input_embeddings().weight[i])
            elif at == 0 or ids[at - 1] != IMAGE:
                rows += model.connector(model.vision(batch.pixels[picture : picture + 1].double()))[0]
                picture += 1
        logits = model.llm(inputs_embeds=torch.stack(rows)[None]).logits[0]
        total = total + F.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="sum")
    assert picture == len(batch.pixels)
    return total


def gradients(model, loss) -> dict[str, torch.Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters()}


def test_the_loss_is_the_sum_over_supervised_tokens(tiny_model):
    batch = batch_of(MIXED, pictures=3)
    assert batch.supervised == 6 + 2 + 4 + 4
    # 16 terms of about 4 nats in fp32: each is good to about 1e-6 relative after two layers
    expected = written_out(copy.deepcopy(tiny_model).double(), batch).item()
    assert tiny_model(batch).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_those_of_the_written_out_loss(tiny_model):
    batch = batch_of(MIXED, pictures=3)
    ours = gradients(tiny_model, tiny_model(batch))
    double = copy.deepcopy(tiny_model).double()
    theirs = gradients(double, written_out(double, batch))
    for name, gradient in ours.items():
        # fp32 against float64: sums over 33 positions, compared with the largest entry of each tensor
        assert torch.allclose(gradient.double(), theirs[name], atol=1e-5 * float(theirs[name].abs().max()) + 1e-9), name


def test_rows_do_not_see_each_other_or_their_padding(tiny_model):
    whole = tiny_model(batch_of(MIXED, pictures=3)).item()
    pixels = batch_of(MIXED, pictures=3).pixels
    alone, at = 0.0, 0
    for row in MIXED:
        single = batch_of([row], 0)
        shown = sum(i == IMAGE for i in row[0]) // 2
        single.pixels = pixels[at : at + shown]
        at += shown
        alone += tiny_model(single).item()
    assert alone == pytest.approx(whole, rel=1e-5)  # fp32, as above


def test_text_alone_has_the_language_models_loss_and_touches_every_parameter(tiny_model):
    text = batch_of(MIXED[2:], pictures=0)
    loss = tiny_model(text)
    logits = tiny_model.llm(input_ids=text.ids, attention_mask=text.mask).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), text.labels[:, 1:].flatten(), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    grads = gradients(tiny_model, loss)
    with_pictures = gradients(tiny_model, tiny_model(batch_of(MIXED, pictures=3)))
    assert {n for n, g in grads.items() if g is not None} == {n for n, g in with_pictures.items() if g is not None}
    assert all(not g.any() for n, g in grads.items() if not n.startswith("llm."))
    assert any(g.any() for n, g in grads.items() if n.startswith("llm."))


def test_text_alone_does_not_run_the_encoder_to_answer(tiny_model):
    tiny_model.vision.forward = None  # calling it would fail
    with torch.inference_mode():
        assert tiny_model(batch_of(MIXED[2:], pictures=0)) > 0


@pytest.mark.parametrize("pictures", [0, 3])
def test_nothing_supervised_is_zero_with_gradients_of_zero(pictures, tiny_model):
    batch = batch_of(MIXED if pictures else MIXED[2:], pictures)
    batch.labels.fill_(IGNORE)
    assert batch.supervised == 0
    loss = tiny_model(batch)
    assert loss.item() == 0.0
    grads = gradients(tiny_model, loss)
    assert all(g is not None and not g.any() for g in grads.values())


def test_a_frozen_encoder_keeps_no_graph(tiny_model):
    tiny_model.vision.requires_grad_(False)
    embeddings = tiny_model.image_embeddings(torch.rand(2, 3, 4, 4))
    assert embeddings.shape == (2, 2, 16) and embeddings.requires_grad
    seen = []
    tiny_model.vision.norm.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad))
    tiny_model.image_embeddings(torch.rand(1, 3, 4, 4))
    assert seen == [False]


def test_pictures_stand_where_their_positions_are(tiny_model):
    batch = batch_of(MIXED, pictures=3)
    embedded = tiny_model.embed(batch.ids, batch.pixels)
    shown = tiny_model.image_embeddings(batch.pixels)
    places = [(0, 1), (1, 0), (1, 4)]
    for picture, (row, at) in enumerate(places):
        assert torch.equal(embedded[row, at : at + 2], shown[picture])
    words = batch.ids != IMAGE
    assert torch.equal(embedded[words], tiny_model.llm.get_input_embeddings()(batch.ids[words]))


def test_too_few_pictures_are_an_error_not_a_guess(tiny_model):
    with pytest.raises(RuntimeError, match="mask"):
        tiny_model.embed(batch_of(MIXED, 3).ids, torch.rand(2, 3, 4, 4))
