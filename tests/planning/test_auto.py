"""`cluster: auto`: what is chosen fits, what is set stays, and the line says why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from remora import catalog
from remora.errors import SpecError
from remora.runs import Store
from remora.spec import Variant

GIB = 1 << 30
SPEC = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "smollm2-135m", "recipe": "llava-1.5"}


def variant(cluster: object = "auto") -> Variant:
    return Variant.model_validate(SPEC | {"cluster": cluster})


@dataclass
class Memory:
    """A stand-in for traced memory: so many GiB a sample of the micro batch, a third of it with checkpointing."""

    each: float
    held: float = 2.0

    def __call__(self, placed):
        stage, cluster, ranks, device = placed.stage, placed.cluster, placed.ranks, placed.device
        whole = len(stage.tune.trained) > 1
        held = 0.0 if cluster.offload == "optimizer" else self.held * (1 + whole) / (ranks if cluster.zero == 3 else 1)
        passing = self.each * cluster.micro_batch * (1 / 3 if cluster.activation_checkpointing else 1)
        total, capacity = int((held + passing) * GIB), device.memory << 20
        known = {"vision": (1, 0), "connector": (1, 1), "llm": (1, int(whole))}
        return SimpleNamespace(
            cluster=cluster, total=total, capacity=capacity, fits=total <= capacity, margin=1 - total / capacity,
            traced=SimpleNamespace(parameters=known), terms=[SimpleNamespace(name="activations", size=total)],
        )  # fmt: skip


@pytest.fixture
def memory(monkeypatch):
    def use(made: Memory) -> None:
        monkeypatch.setattr("remora.planning.auto.stage_memory", made)
        monkeypatch.setattr("remora.planning.fitting.stage_memory", made)

    return use


def settle(said: object, tmp_path: Path, alone: bool = True, **more: object):
    """On four L4 with 32 CPUs."""
    from remora.planning.auto import Machine, settled_cluster

    machine = Machine(catalog.device("l4"), "l4", 4, 32)
    return settled_cluster([variant(said)], machine, Store(tmp_path), alone, **more)


def test_auto_is_short_for_a_block() -> None:
    assert variant().cluster == variant({"auto": True}).cluster and variant().cluster.auto
    assert not variant({}).cluster.auto


def test_what_fits_keeps_the_fastest_settings(tmp_path, memory) -> None:
    memory(Memory(each=0.1))
    found, why = settle("auto", tmp_path)
    assert (found.workers, found.gpus_per_worker, found.cpus_per_worker, found.zero) == (4, 1, 8, 2)
    assert (found.micro_batch, found.activation_checkpointing, found.offload) == (64, False, "none")
    assert found.rehearse and not found.auto
    assert why == (
        "cluster: auto on 4 x l4: workers: 4, zero: 2, micro_batch: 64, activation_checkpointing: false, "
        "offload: none; finetune, the largest stage, takes 10.4 of 22.5 GiB"
    )


def test_progress_is_told_stage_by_stage(tmp_path, memory) -> None:
    memory(Memory(each=0.5))
    told: list[tuple[str, int, int]] = []
    assert settle("auto", tmp_path, hear=lambda *said: told.append(said)) == settle("auto", tmp_path)
    assert told == [("stages on fake tensors", done, 2) for done in range(2)]


def test_a_micro_batch_is_halved_before_anything_is_recomputed(tmp_path, memory) -> None:
    memory(Memory(each=1.0))
    found, why = settle("auto", tmp_path)
    assert (found.micro_batch, found.activation_checkpointing) == (16, False)
    assert why.endswith("takes 20.0 of 22.5 GiB; with micro_batch: 64 it would take 68.0, most of it activations")


def test_what_is_set_stays(tmp_path, memory) -> None:
    memory(Memory(each=1.0))
    found, _ = settle({"auto": True, "micro_batch": 64, "precision": "bf16", "workers": 2}, tmp_path)
    assert (found.workers, found.micro_batch, found.precision) == (2, 64, "bf16")
    assert found.activation_checkpointing and found.offload == "optimizer"


def test_a_searchs_trials_get_as_few_gpus_as_they_fit(tmp_path, memory) -> None:
    memory(Memory(each=1.0))
    assert settle("auto", tmp_path, alone=False)[0].workers == 1
    memory(Memory(each=1.0, held=30.0))  # ZeRO 3 on four, rather than AdamW on the host of one
    found, _ = settle("auto", tmp_path, alone=False)
    assert (found.workers, found.zero, found.offload) == (4, 3, "none")


def test_what_fits_nowhere_is_one_line(tmp_path, memory) -> None:
    memory(Memory(each=100.0))
    with pytest.raises(SpecError, match=r"cluster: auto: finetune, align fit 4 x l4 with no settings; next: a smaller"):
        settle("auto", tmp_path)
