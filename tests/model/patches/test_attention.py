"""Packed rows equal single rows in every class of the catalog: logits, gradients, loss, dropout.

The reference is transformers' own forward pass, one sample at a time, with its eager attention.
"""

from __future__ import annotations

import copy
import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.errors import SpecError
from remora.model.lora import add_adapter
from remora.model.patches import attention
from remora.model.patches.attention import PER_SAMPLE, attend_per_sample, states
from remora.model.tuning import freeze_and_train
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Cluster, Lora, PartTuning, Stage, Tuning
from remora.token_ids import IGNORE, IMAGE
from remora.training.build import set_up
from support.standins import small_llm

IMAGE_TOKENS = 2
LAYOUTS = ("packed", "padded")
OTHERS = {
    "smollm3": {"no_rope_layers": [1, 0]},  # a layer without positions
    "mistral": {"sliding_window": 4},
    "qwen3-sliding": {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["sliding_attention"] * 2},
    "granite": {"attention_multiplier": 0.3},
    "olmo2": {},
}
"""Classes and settings that no shipped entry has, but a user's entry could have."""


def _configs() -> dict[str, dict[str, object]]:
    """One name for every two-layer config that the catalog's language models shrink to."""
    found: dict[str, str] = {}
    for name, entry in catalog.entries("llm").items():
        found.setdefault(json.dumps(small_llm(entry).config, sort_keys=True), name)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 340, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    others = {name: {"model_type": name.partition("-")[0]} | sizes | own for name, own in OTHERS.items()}
    return {name: json.loads(config) for config, name in found.items()} | others


CONFIGS = _configs()


def test_every_class_of_the_catalog_is_here():
    types = {entry.config["model_type"] for entry in catalog.entries("llm").values()}
    assert types <= {c["model_type"] for c in CONFIGS.values()}


def llm_of(name: str, attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIGS[name]), attn_implementation=attention)
    with torch.no_grad():
        for parameter in llm.parameters():  # as made, weights of .02 leave the logits nearly blind to what was read
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return llm.eval()


class Pixels(nn.Module):
    """[I, 3, 2, 2] -> [I, IMAGE_TOKENS, 6]."""

    def forward(self, pixels):
        return pixels.flatten(1).view(len(pixels), IMAGE_TOKENS, 6)


def model_of(llm: nn.Module) -> VisionLanguageModel:
    torch.manual_seed(1)
    return VisionLanguageModel(llm, Pixels(), nn.Linear(6, 16), 2, IMAGE_TOKENS)


def sample(length: int, pictures: tuple[int, ...], answer: int, seed: int) -> tuple[Tokens, list[torch.Tensor]]:
    """`length` tokens with pictures at places; the last `answer` tokens are supervised."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 340, (length,), generator=generator).tolist()
    for at in pictures:
        ids[at : at + IMAGE_TOKENS] = [IMAGE] * IMAGE_TOKENS
    labels = [IGNORE] * (length - answer) + ids[length - answer :]
    return Tokens(ids, labels, len(pictures)), [torch.rand(3, 2, 2, generator=generator) for _ in pictures]


SHOWN = [sample(11, (1,), 5, 0), sample(9, (0, 4), 2, 1), sample(6, (2,), 1, 2)]
TEXT = [sample(7, (), 4, 3), sample(1, (), 0, 4), sample(5, (), 5, 5)]  # every token supervised, also the first
ROWS = {"pictures": SHOWN, "text": TEXT, "mixed": [SHOWN[0], TEXT[0], TEXT[1], SHOWN[1], TEXT[2], SHOWN[2]]}


def row(samples, rows="packed", keys=None):
    return collate(samples, 1, 2, keys, rows)


def reference(model: VisionLanguageModel, name: str, samples) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits [T, vocabulary], loss) of samples read one at a time by transformers' class with eager attention."""
    llm = llm_of(name, "eager")
    llm.load_state_dict(model.llm.state_dict())
    shared = copy.copy(model)
    logits, loss = [], torch.zeros(())
    for tokens, pictures in samples:
        embeddings = []
        shown = iter(pictures)
        for at, i in enumerate(tokens.ids):
            if i != IMAGE:
                embeddings.append(llm.get_input_embeddings()(torch.tensor(i)))
            elif at == 0 or tokens.ids[at - 1] != IMAGE or tokens.ids[:at].count(IMAGE) % IMAGE_TOKENS == 0:
                embeddings += shared.connector(shared.vision(next(shown)[None]))[0]
        alone = llm(inputs_embeds=torch.stack(embeddings)[None]).logits[0]
        logits.append(alone)
        loss = loss + F.cross_entropy(alone[:-1], torch.tensor(tokens.labels)[1:], ignore_index=IGNORE, reduction="sum")
    return torch.cat(logits), (loss, llm)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_packed_token_has_the_logits_that_it_has_alone(name, kind):
    model = model_of(llm_of(name))
    attend_per_sample(model.llm)
    batch = row(ROWS[kind])
    with torch.no_grad():
        hidden = states(model.llm, model.embed(batch.ids, batch.pixels), batch.lengths)
        logits = model.llm.get_output_embeddings()(hidden)[0]
        expected, _ = reference(model, name, ROWS[kind])
    if scale := getattr(model.llm.config, "logits_scaling", None):
        logits = logits / scale  # granite's, which load_llm refuses
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1  # they say something


@pytest.mark.sampled(6)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "granite"])
def test_loss_and_gradients_are_those_of_the_samples_alone(name, checkpointing):
    model = model_of(llm_of(name))
    attend_per_sample(model.llm)
    for child in model.llm.modules():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
    model.train()
    if checkpointing:
        model.llm.activation_checkpointing_enable()
    loss = model(row(ROWS["mixed"]))
    loss.backward()
    _, (expected, llm) = reference(model, name, ROWS["mixed"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [p.grad for p in model.llm.parameters()]
    model.connector.zero_grad()
    expected.backward()
    for (which, theirs), ours in zip(llm.named_parameters(), gradients, strict=True):
        # fp32 sums over 39 positions in another order, compared with the largest entry of each tensor
        assert torch.allclose(ours, theirs.grad, atol=2e-5 * float(theirs.grad.abs().max()) + 1e-7), which


@pytest.mark.parametrize("kind", ROWS)
def test_the_connectors_gradients_are_those_of_padded_rows(kind):
    model = model_of(llm_of("demo-2m"))
    attend_per_sample(model.llm)
    grads = []
    for rows in ("packed", "padded"):
        model.zero_grad()
        model(row(ROWS[kind], rows)).backward()
        grads.append(model.connector.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)
    assert bool(grads[0].any()) == (kind != "text")


def test_no_sample_is_predicted_from_the_one_before_it():
    batch = row(TEXT)
    assert batch.supervised == 4 + 0 + 4 == row(TEXT, "padded").supervised
    assert batch.targets.shape == (1, 12)
    assert [i for i, t in enumerate(batch.targets[0].tolist()) if t != IGNORE] == [2, 3, 4, 5, 8, 9, 10, 11]
    assert row(TEXT[2:]).supervised == 4  # a row of one sample


@pytest.mark.parametrize("lora", [False, True], ids=["residual", "lora"])
def test_dropout_masks_are_the_samples_own_in_any_row(lora):
    how = PartTuning(mode="lora", lora=Lora(r=2, alpha=4, dropout=0.3)) if lora else PartTuning(mode="full")
    model = model_of(llm_of("phi-2"))
    attend_per_sample(model.llm)
    freeze_and_train(model, Tuning(vision="frozen", connector="full", llm=how))
    if lora:
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(3))
    assert model.dropouts["llm"]
    samples, keys = ROWS["mixed"], [40, 7, 9, 1000, 3, 12]
    packed, padded = model(row(samples, keys=keys)), model(row(samples, "padded", keys))
    alone = [model(row([s], keys=[k])).item() for s, k in zip(samples, keys, strict=True)]
    assert packed.item() == pytest.approx(padded.item(), rel=1e-6) == pytest.approx(sum(alone), rel=1e-6)
    assert packed.item() != pytest.approx(model(row(samples, keys=keys[::-1])).item(), rel=1e-4)  # it acts
    order = [3, 0, 5, 1, 4, 2]
    shuffled = row([samples[i] for i in order], keys=[keys[i] for i in order])
    assert model(shuffled).item() == pytest.approx(packed.item(), rel=1e-6)


def test_a_frozen_part_drops_where_the_recipe_says_so_and_its_masks_are_the_samples_own():
    def made(dropout: bool) -> VisionLanguageModel:
        model = model_of(llm_of("phi-2"))
        tune = {"vision": "frozen", "connector": "full", "llm": {"mode": "frozen", "dropout": dropout}}
        stage = {"name": "align", "mixture": ["llava-pretrain-558k"], "tune": tune, "lr": 1e-3, "epochs": 1}
        set_up(model, Stage.model_validate(stage), Cluster())  # all that a stage does to it
        assert model.narrowed
        return model

    samples, keys = ROWS["mixed"], [40, 7, 9, 1000, 3, 12]
    still, model = made(False), made(True)
    losses = [still(row(samples, rows, k)).item() for rows in ("packed", "padded") for k in (keys, keys[::-1])]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)  # nothing is dropped: keys do not matter
    assert not still.dropouts.get("llm") and not still.llm.training

    packed = model(row(samples, keys=keys))
    assert packed.item() != pytest.approx(losses[0], rel=1e-4)
    assert packed.item() == model(row(samples, keys=keys)).item()  # the same again, to the bit
    assert packed.item() != pytest.approx(model(row(samples, keys=keys[::-1])).item(), rel=1e-4)
    others = [model(row(samples, "padded", keys)).item()]
    others += [sum(model(row([s], rows, [k])).item() for s, k in zip(samples, keys, strict=True)) for rows in LAYOUTS]
    order = [3, 0, 5, 1, 4, 2]
    others += [model(row([samples[i] for i in order], rows, [keys[i] for i in order])).item() for rows in LAYOUTS]
    assert others == pytest.approx([packed.item()] * 5, rel=1e-6)

    # It stays frozen: only its dropout is in train mode, and only the connector learns, through the masks.
    packed.backward()
    assert [type(m).__name__ for m in model.llm.modules() if m.training] == ["KeyedDropout"] * len(
        model.dropouts["llm"]
    )
    assert model.dropouts["llm"] and not model.vision.training
    assert not any(p.requires_grad or p.grad is not None for p in model.llm.parameters())
    still(row(samples, keys=keys)).backward()
    assert not torch.allclose(model.connector.weight.grad, still.connector.weight.grad, rtol=1e-3)


def test_adapters_see_packed_rows_as_padded_ones():
    model = model_of(llm_of("qwen2-0.5b"))
    attend_per_sample(model.llm)
    add_adapter("llm", model.llm, Lora(r=2, dropout=0.0), 0)
    losses = [model(row(SHOWN, rows)) for rows in ("packed", "padded")]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_other_rows_are_read_as_before():
    llm = llm_of("demo-2m")
    ids = torch.randint(2, 340, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[1, :2] = 0  # on the left, as answers have it
    settings = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    before = llm(input_ids=ids, attention_mask=mask).logits, llm.generate(ids, **settings)
    attend_per_sample(llm)
    assert llm.config._attn_implementation == PER_SAMPLE
    assert torch.equal(llm(input_ids=ids, attention_mask=mask).logits, before[0])
    assert torch.equal(llm.generate(ids, **settings), before[1])


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "gemma2", "attn_logit_softcapping": 5.0}, "attention with softcap is not supported"),
        ({"model_type": "mamba", "state_size": 4}, "MambaForCausalLM has layers of type linear_attention"),
        ({"model_type": "bloom"}, "BloomForCausalLM does not support them"),
        ({"model_type": "rwkv"}, "RwkvForCausalLM mixes the samples of a row"),
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "Lfm2ForCausalLM has layers of type conv"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_a_model_that_would_mix_samples_is_refused(config, why):
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1} if config["model_type"] == "gemma2" else {}
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | sizes)).eval()
    with pytest.raises(SpecError, match=why + ".*next: set rows: padded under cluster"):
        attend_per_sample(llm)


def by_the_manual(query, key, value, ends, ends_of_keys, longest, longest_key, *, scale, window_size, enable_gqa):
    """What torch.nn.attention.varlen says that `varlen_attn` does with [T, heads, D], a sample at a time."""
    assert ends is ends_of_keys and ends.dtype == torch.int32 and ends[0] == 0 and ends[-1] == len(query)
    assert longest == longest_key == ends.diff().max()
    left, right = window_size
    assert right == 0
    seen = []
    for start, end in itertools.pairwise(ends.tolist()):
        q, k, v = (t[start:end].transpose(0, 1) for t in (query, key, value))
        band = torch.ones(end - start, end - start, dtype=torch.bool).tril()
        band = band.triu(-left) if left >= 0 else band
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=band, scale=scale, enable_gqa=enable_gqa)
        seen.append(out.transpose(0, 1))
    return torch.cat(seen)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_call_a_layer_is_handed_what_a_call_a_sample_sees(name, monkeypatch):
    calls = []
    monkeypatch.setattr(attention, "varlen_attn", lambda *a, **k: calls.append(1) or by_the_manual(*a, **k))
    model, batch = model_of(llm_of(name)), row(ROWS["mixed"])
    attend_per_sample(model.llm)
    found = []
    for at_once in (False, True):
        monkeypatch.setattr(attention, "in_one_call", lambda *tensors, say=at_once: say)
        loss = model(batch)
        found.append([loss, *torch.autograd.grad(loss, list(model.llm.parameters()), materialize_grads=True)])
    assert len(calls) == model.llm.config.num_hidden_layers
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_one_call_takes_half_precision_on_cuda_only():
    def tensors(dtype, is_cuda=True, head=80):
        return [SimpleNamespace(dtype=dtype, is_cuda=is_cuda, shape=(1, 4, 9, head))] * 3

    assert attention.in_one_call(*tensors(torch.bfloat16)) and attention.in_one_call(*tensors(torch.float16))
    assert not attention.in_one_call(*tensors(torch.float32))
    assert not attention.in_one_call(*tensors(torch.bfloat16, is_cuda=False))
    assert not attention.in_one_call(*tensors(torch.bfloat16)[:2], *tensors(torch.float16)[:1])
    assert not attention.in_one_call(*tensors(torch.float16, head=12))
    assert not attention.in_one_call(*tensors(torch.float16, head=512))
