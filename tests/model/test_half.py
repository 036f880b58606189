"""Frozen matrices in half precision give what autocast makes of full ones, bit for bit, in half the memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.batch import Batch
from remora.model.patches.attention import attend_per_sample
from remora.model.tuning import freeze_and_train, halve_frozen
from remora.model.vision import build_tower
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Tuning
from remora.token_ids import IMAGE
from support.standins import small_llm, small_vision


def model_of(llm: str, tuning: Tuning) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = small_vision(catalog.vision("siglip-so400m-384"))
    config = AutoConfig.for_model(**small_llm(catalog.llm(llm)).config)
    language = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    tower = build_tower(encoder, pretrained=False)
    connector = nn.Linear(encoder.width, 16)
    model = VisionLanguageModel(language, tower, connector, encoder.input_size, encoder.tokens)
    attend_per_sample(model.llm)
    freeze_and_train(model, tuning)
    return model


def batch_of(model: VisionLanguageModel) -> Batch:
    ids = [5, *[IMAGE] * model.image_tokens, 7, 8, 9]
    picture = torch.rand(3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(1))
    return collate(
        [(Tokens(ids, [-100] * (len(ids) - 2) + ids[-2:], 1), [picture])], 1, model.image_size, [4], "packed"
    )


TUNINGS = {
    "alignment": {"vision": "frozen", "connector": "full", "llm": "frozen"},
    "lora": {"vision": "frozen", "connector": "full", "llm": {"lora": {"r": 2, "dropout": 0.0}}},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("llm", ["demo-2m", "phi-2"])
@pytest.mark.parametrize("tuning", TUNINGS.values(), ids=TUNINGS)
def test_a_pass_is_the_same_and_the_matrices_are_half(tuning, llm, dtype) -> None:
    tuning, found, sizes = Tuning.model_validate(tuning), [], []
    for halved in (False, True):
        model = model_of(llm, tuning)
        if halved:
            halve_frozen(model, tuning, dtype)
        with torch.autocast("cpu", dtype):
            loss = model(batch_of(model))
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.requires_grad}))
        sizes.append(sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad))
    (loss, grads), (half_loss, half_grads) = found
    assert torch.equal(loss, half_loss) and grads.keys() == half_grads.keys()
    assert all(g.abs().max() > 0 for n, g in grads.items() if "lora_A" not in n)  # B is zero, so A has none yet
    assert all(torch.equal(grads[n], half_grads[n]) for n in grads)
    assert sizes[1] < 0.85 * sizes[0]  # embeddings and norms, much of so small a model, stay


def test_what_trains_and_what_is_saved_with_it_stays_whole() -> None:
    tuning = Tuning.model_validate({"vision": {"last": 2}, "connector": "full", "llm": "full"})
    model = model_of("demo-2m", tuning)
    halve_frozen(model, tuning, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
