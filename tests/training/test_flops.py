"""Operations of a step against torch's counter, for trained and frozen parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from remora import catalog
from remora.model.connectors import build_connector
from remora.model.patches.attention import attend_per_sample, states
from remora.model.patches.head import LossHead
from remora.model.patches.narrow import narrow
from remora.model.tuning import freeze_and_train
from remora.model.vision import build_tower
from remora.model.vision.efficientnet import Pointwise
from remora.model.vlm import VisionLanguageModel
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Lora, PartTuning, Tuning
from remora.token_ids import IGNORE, IMAGE
from remora.training.flops import StepFlops, attention_width, peak_flops, peak_of
from support.standins import small_llm, small_vision

FROZEN, FULL = PartTuning(mode="frozen"), PartTuning(mode="full")
TWO_BLOCKS = PartTuning.model_validate({"last": 2})
ADAPTED = PartTuning(mode="lora", lora=Lora(r=4, alpha=8, dropout=0.0))
TUNINGS = {
    "alignment": (FROZEN, FULL, FROZEN),
    "fine-tuning": (FROZEN, FULL, FULL),
    "share": (TWO_BLOCKS, FULL, FULL),
    "everything": (FULL, FULL, FULL),
    "lora": (FROZEN, FULL, ADAPTED),
    "last block alone": (FROZEN, FROZEN, PartTuning.model_validate({"last": 1})),
}


def model_of(vision: str, llm: str) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = small_vision(catalog.vision(vision))
    text = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**small_llm(catalog.llm(llm)).config), attn_implementation="sdpa"
    )
    tower = build_tower(encoder, pretrained=False)
    connector = build_connector(catalog.connector("mlp2x_gelu"), encoder.width, text.config.hidden_size)
    model = VisionLanguageModel(text, tower, connector, encoder.input_size, encoder.tokens)
    attend_per_sample(model.llm)
    return model


def batch_of(model: VisionLanguageModel, texts, pictures=()):
    """Samples of that many words, some after a picture; the second half of the words is supervised."""
    read = []
    for i, words in enumerate(texts):
        ids = [IMAGE] * model.image_tokens * (i in pictures) + list(range(2, 2 + words))
        labels = [IGNORE] * (len(ids) - words // 2) + ids[len(ids) - words // 2 :]
        shown = [torch.rand(3, model.image_size, model.image_size)] * (i in pictures)
        read.append((Tokens(ids, labels, len(shown)), shown))
    return collate(read, 1, model.image_size, rows="packed")


def counted(model: VisionLanguageModel, batch, monkeypatch) -> float:
    """What torch counts, forward and backward, with attention as plain products; of the causal ones, half."""

    def apart(head, hidden, targets, weights=None):  # torch's table has no addmm_, which makes the head's gradient
        return F.cross_entropy(nn.Linear.forward(head, hidden), targets, reduction="sum")

    monkeypatch.setattr(LossHead, "forward", apart)
    embedded = model.embed(batch.ids, batch.pixels)
    embedded = embedded.detach().requires_grad_(embedded.requires_grad)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as whole:
            model(batch).backward()
        with FlopCounterMode(display=False) as reading:
            states(model.llm, embedded, batch.lengths).sum().backward()
    monkeypatch.undo()
    causal = reading.get_flop_counts()["Global"][torch.ops.aten.bmm]
    return whole.get_total_flops() - causal / 2


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize(
    ("vision", "llm"),
    [
        ("clip-l-336", "pythia-1.4b"),
        ("siglip2-base-224", "qwen2-0.5b"),
        ("dinov2-l-224", "qwen2-0.5b"),
        ("clip-l-336-s2", "tinyllama-1.1b-chat"),
    ],
)
def test_it_is_what_torch_counts(vision, llm, tuning, monkeypatch):
    model = model_of(vision, llm)
    parts = dict(zip(("vision", "connector", "llm"), TUNINGS[tuning], strict=True))
    freeze_and_train(model, Tuning(**parts))
    model.narrowed = narrow(model.llm)
    count = StepFlops(model)
    model(batch_of(model, (7, 30, 12), (0, 2)))
    batch = batch_of(model, (40, 9, 25, 3), (1,))
    # The same products, so the same whole number.
    assert count([batch, batch]) == 2 * counted(model, batch, monkeypatch)


def test_convolutions_count_too(monkeypatch):
    model = model_of("efficientnet-lite0", "demo-2m")
    batch = batch_of(model, (5, 9), (0, 1))
    freeze_and_train(model, Tuning(vision=FROZEN, connector=FROZEN, llm=FULL))
    count = StepFlops(model)
    model(batch)
    monkeypatch.setattr(Pointwise, "forward", nn.Conv2d.forward)  # torch's counter knows no call of oneDNN by name
    with FlopCounterMode(display=False) as forward:
        model.connector(model.vision(batch.pixels))
    assert 2 * count.each["picture"] == forward.get_total_flops()


def test_padding_and_the_blank_picture_do_not_count():
    model = model_of("siglip2-base-224", "demo-2m")
    freeze_and_train(model, Tuning(vision=FROZEN, connector=FULL, llm=FULL))
    count = StepFlops(model)
    packed = batch_of(model, (20, 4))  # what is seen first has no picture but the blank one
    model(packed)
    shown = batch_of(model, (20, 4), (0,))
    assert count([shown]) > count([packed]) > 0
    read = [
        (Tokens(list(range(2, 2 + n)), [IGNORE] * (n // 2) + list(range(2 + n // 2, 2 + n)), 0), []) for n in (20, 4)
    ]
    padded = collate(read, 1, model.image_size)
    assert padded.mask.numel() == 40
    assert count([padded]) == pytest.approx(count([packed]))


def test_layers_are_looked_at_once():
    model = model_of("siglip2-base-224", "demo-2m")
    freeze_and_train(model, Tuning(vision=FROZEN, connector=FULL, llm=FULL))
    count, batch = StepFlops(model), batch_of(model, (20, 4), (1,))
    model(batch)
    first = count([batch])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model(batch)
    assert count([batch]) == first > 0


def test_text_alone(tiny_model):
    tiny_model.vision = tiny_model.connector = None
    count = StepFlops(tiny_model)
    ids = list(range(2, 12))
    batch = collate([(Tokens(ids, ids, 0), [])], 1, 1)
    tiny_model(batch)
    blocks = 2 * (4 * 16 * 16 + 3 * 16 * 32)
    assert count([batch]) == 3 * (2 * (10 * blocks + 9 * 16 * 64) + 2 * 4 * 16 * 10**2 / 2)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}, 64),
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1}, 64),
        ({"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 32}, 128),
        ({"model_type": "mixtral", "hidden_size": 64, "num_attention_heads": 4, "head_dim": None}, 64),
        ({"model_type": "gpt2", "n_embd": 64, "n_head": 4}, 64),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 8}}, 32),
    ],
    ids=lambda c: c["model_type"] if isinstance(c, dict) else None,
)
def test_the_width_of_attention_is_found_in_any_config(config, width):
    assert attention_width(AutoConfig.for_model(**config)) == width


def test_a_null_head_dim_counts_like_none(tiny_model):
    tiny_model.vision = tiny_model.connector = None
    ids = list(range(2, 12))
    batch, counts = collate([(Tokens(ids, ids, 0), [])], 1, 1), []
    for head_dim in (8, None):
        tiny_model.llm.config.head_dim = head_dim
        count = StepFlops(tiny_model)
        tiny_model(batch)
        counts.append(count([batch]))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("broken", ["config", "experts", "call"])
def test_what_cannot_be_counted_costs_the_figure_and_no_step(tiny_model, broken, caplog):
    tiny_model.vision = tiny_model.connector = None
    ids = list(range(2, 12))
    batch = collate([(Tokens(ids, ids, 0), [])], 1, 1)
    block, expected = tiny_model.llm.model.layers[0], tiny_model(batch)
    if broken == "config":
        vars(tiny_model.llm.config)["num_attention_heads"] = "four"  # past its own check of types
    elif broken == "experts":  # as transformers holds a mixture's since version 5: one tensor for all of them
        block.mlp.experts = nn.Parameter(torch.zeros(2, 16, 16))
    else:  # a layer that is called by keyword
        whole, up = block.mlp.forward, block.mlp.up_proj
        block.mlp.forward = lambda x: whole(x) + 0 * up(input=x)[..., :16]
    count = StepFlops(tiny_model)
    loss = tiny_model(batch)
    loss.backward()
    assert count([batch]) is None
    assert torch.allclose(loss, expected)
    assert len(caplog.messages) == 1 and "there is no mfu" in caplog.messages[0]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny_model.modules())


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "fp32", 67e12),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA L40", "bf16", None),
        ("Some other GPU", "bf16", None),
    ],
)
def test_peaks_by_the_name_that_torch_says(name, precision, peak):
    assert peak_of(name, precision) == peak


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu"), "fp32") is None
