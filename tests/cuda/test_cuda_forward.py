"""Forward pass and loss of every class of the catalog on a fake GPU (docs/devices.md)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("cuda_build", reason="torch is a CPU build here; next: make check-cuda", exc_type=ImportError)

import torch
from fake_cuda import CUDA, on_cuda
from fake_models import CONNECTORS, LLMS, VISION, model_of
from torch import nn

from remora.batch import Batch
from remora.model.patches import attention
from remora.model.patches.attention import attend_per_sample
from remora.model.patches.narrow import narrow
from remora.reading.batches import collate
from remora.reading.prompt import Tokens
from remora.spec import Cluster, Stage
from remora.token_ids import IGNORE, IMAGE
from remora.training.build import set_up
from remora.training.engines.deepspeed import DeepSpeedEngine
from remora.training.engines.precision import DTYPES
from remora.training.rehearsal import Pass

PRECISIONS = ("fp32", "bf16", "fp16")
LAYOUTS = ("packed", "padded")
FULL = {"vision": "full", "connector": "full", "llm": "full"}
LORA = {"vision": "frozen", "connector": "full", "llm": {"lora": {"r": 2, "dropout": 0.1}}}
FROZEN = {"vision": "frozen", "connector": "full", "llm": {"mode": "frozen", "dropout": True}}


def stage_of(tune):
    about = {"name": "here", "mixture": ["llava-pretrain-558k"], "tune": tune, "lr": 1e-3, "epochs": 1}
    return Stage.model_validate(about)


def batch_of(model, rows, pictures=(1, 0, 2)):
    """Samples with so many pictures each, with weights."""
    samples = []
    for i, shown in enumerate(pictures):
        ids = [5, *[IMAGE] * (shown * model.image_tokens), *range(6, 10 + i)]
        labels = [IGNORE] * (len(ids) - 3) + ids[-3:]
        samples.append((Tokens(ids, labels, shown), [torch.zeros(3, model.image_size, model.image_size)] * shown))
    batch = collate(samples, 1, model.image_size, [4, 5, 6][: len(samples)], rows)
    batch.weights = torch.ones(len(samples))
    return batch


def engine_of(model, precision, zero=2):
    """What of the engine a pass needs."""
    return SimpleNamespace(engine=model, device=CUDA, dtype=DTYPES.get(precision), zero=zero)


def loss_of(model: nn.Module, batch: Batch, precision: str) -> torch.Tensor:
    loss = DeepSpeedEngine.forward(engine_of(model, precision), batch)
    assert loss.device == CUDA and loss.shape == () and loss.dtype == torch.float32 and loss.requires_grad
    return loss


def walk(model, tune, rows, precision, checkpointing=False, pictures=(1, 0, 2)):
    cluster = Cluster(rows=rows, precision=precision, activation_checkpointing=checkpointing)
    set_up(model, stage_of(tune), cluster)
    batch = batch_of(model, rows, pictures)
    with on_cuda(model, batch=batch):
        loss_of(model, batch, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", LAYOUTS)
@pytest.mark.parametrize("name", LLMS)
def test_language_models(name, rows, precision):
    walk(model_of(llm=name), FULL, rows, precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VISION)
def test_encoders(name, precision):
    walk(model_of(vision=name), FULL, "packed", precision, pictures=(1,))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CONNECTORS)
def test_connectors(name, precision):
    walk(model_of("clip-l-336", name), FULL, "packed", precision, pictures=(1,))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("tune", [LORA, FROZEN], ids=["lora", "frozen"])
def test_dropout_adapters_and_halved_matrices(tune, checkpointing, rows, precision):
    model = model_of(llm="phi-2")
    walk(model, tune, rows, precision, checkpointing)
    assert model.dropouts["llm"] and model.narrowed


@pytest.mark.parametrize("rows", LAYOUTS)
def test_a_batch_without_a_picture_and_the_whole_last_block(rows):
    model = model_of()
    set_up(model, stage_of(FULL), Cluster(rows=rows))
    model.narrowed = []
    batch = batch_of(model, rows, (0, 0))
    with on_cuda(model, batch=batch):
        loss_of(model, batch, "fp32")


@pytest.mark.parametrize("packed", [True, False])
def test_the_pass_that_is_rehearsed(packed):
    model = model_of()
    set_up(model, stage_of(FULL), Cluster(rows="packed" if packed else "padded"))
    batch = Pass(2, model.image_tokens + 9, 2, 2 * (model.image_tokens + 9)).batch(model, packed)
    with on_cuda(model, batch=batch):
        loss_of(model, batch, "bf16")


@pytest.mark.parametrize(
    ("head", "precision", "calls"), [(16, "bf16", 2), (16, "fp16", 2), (16, "fp32", 0), (4, "bf16", 0)]
)
@pytest.mark.parametrize("name", ["demo-2m", "phi-3-mini-4k"])
def test_packed_rows_in_half_precision_are_one_call_a_layer(name, head, precision, calls, monkeypatch):
    """Flash attention, which that call ends in, takes heads of a multiple of 8 only."""
    model, seen, varlen = model_of(llm=name, head=head), [], attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", lambda *a, **k: seen.append(a[:5]) or varlen(*a, **k))
    walk(model, FULL, "packed", precision)
    assert len(seen) == calls
    for *heads, begin, end in seen:  # the call itself does not look
        assert begin is end and end.dtype == torch.int32 and end.shape == (4,)
        assert all(t.device == CUDA for t in (*heads, end)) and all(t.is_contiguous() for t in heads)
        assert all(t.shape[2] == head and t.dtype == DTYPES[precision] for t in heads)


def test_what_is_tried_before_a_stage_at_zero_3_where_weights_are_on_the_gpu(monkeypatch):
    """Loaded split, the model is on its GPU before packed rows are tried."""
    model = model_of()
    monkeypatch.setattr(attention, "alike", lambda found, expected: found.device == expected.device == CUDA)
    with on_cuda(model, lengths=(3, 5)):
        attend_per_sample(model.llm)
        monkeypatch.setattr("remora.model.patches.narrow.alike", attention.alike)
        assert len(narrow(model.llm)) >= 4
