"""The cheapest change that fits is the one that trying everything finds, with a fraction of the traces."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from remora import catalog
from remora.runs import resolve_stages
from remora.spec import Cluster, Variant

if TYPE_CHECKING:  # they load torch
    from remora.runs.memory import PlacedStage

SPEC = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "smollm2-135m", "recipe": "llava-1.5"}
GIB = 1 << 30


def placed(cluster: Cluster, ranks: int) -> PlacedStage:
    from remora.runs.memory import PlacedStage

    stage = resolve_stages(Variant.model_validate(SPEC))[-1]
    return PlacedStage(stage, {}, cluster, ranks, catalog.device("l4"))


def grown(draw: random.Random, tried: list[object]) -> Callable[[PlacedStage], SimpleNamespace]:
    """Memory that grows with the micro batch in some way: straight, bent either way, or in steps."""
    held, each = draw.uniform(0.1, 20), draw.uniform(0.05, 30)
    power, step = draw.choice((0.5, 0.8, 1.0, 1.3, 2.0)), draw.choice((1, 1, 3))

    def memory(one: PlacedStage) -> SimpleNamespace:
        cluster, device = one.cluster, one.device
        tried.append((cluster.model_dump_json(), one.ranks))
        kept = {"none": 1.0, "optimizer": 0.4, "all": 0.05}[cluster.offload] * held
        kept /= one.ranks if cluster.zero == 3 else 1 + 0.1 * cluster.zero
        samples = -(-cluster.micro_batch // step)
        total = int(GIB * (kept + each * samples**power * (0.3 if cluster.activation_checkpointing else 1)))
        assert device.memory
        return SimpleNamespace(
            cluster=cluster, total=total, capacity=device.memory << 20, fits=total <= device.memory << 20,
            traced=SimpleNamespace(parameters={"llm": (1, 1)}),
        )  # fmt: skip

    return memory


def exhaustive(one: PlacedStage, more: bool, keep: frozenset[str]) -> tuple[float, int, Cluster] | None:
    """Of every way and every halving of the micro batch the first that costs the least."""
    from remora.planning import fitting

    cluster, best = one.cluster, None
    ways = list(fitting._ways(cluster, one.ranks, one.device, fitting.DOUBLINGS if more else 0, keep))
    for way in sorted(ways, key=lambda way: (way.factor, way.zero != cluster.zero, way.ranks)):
        for halvings in range(1 if "micro_batch" in keep else cluster.micro_batch.bit_length()):
            said = {"activation_checkpointing": way.checkpointing, "zero": way.zero, "offload": way.offload}
            settled = cluster.model_copy(update=said | {"micro_batch": cluster.micro_batch >> halvings})
            if fitting.stage_memory(placed(settled, way.ranks)).fits:
                factor = way.factor * fitting.COSTS["halved"] ** halvings
                if best is None or factor < best[0]:
                    best = factor, way.ranks, settled
                break
    return best


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_trying_everything_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from remora.planning import fitting

    draw, tried = random.Random(seed), list[object]()
    monkeypatch.setattr(fitting, "stage_memory", grown(draw, tried))
    ranks = draw.choice((1, 2, 8))
    cluster = Cluster(zero=draw.choice((0, 2, 3)), micro_batch=draw.choice((1, 2, 24, 32, 48, 64)), workers=ranks)
    keep = frozenset(
        draw.sample(("zero", "offload", "activation_checkpointing", "micro_batch"), draw.choice((0, 0, 1)))
    )
    more, one = draw.choice((True, False)), placed(cluster, ranks)
    found = fitting.cheapest_fit(one, more, keep)
    traced, wanted = len(set(tried)), exhaustive(one, more, keep)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert (found.factor, found.ranks, found.memory.cluster) == (pytest.approx(wanted[0]), *wanted[1:])
    assert traced <= len(set(tried))


def test_a_straight_line_takes_two_traces_beside_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from remora.planning import fitting

    tried: list[int] = []

    def memory(one: PlacedStage) -> SimpleNamespace:
        tried.append(one.cluster.micro_batch)
        total = 2 * GIB + one.cluster.micro_batch * GIB
        return SimpleNamespace(cluster=one.cluster, total=total, capacity=22 * GIB, fits=total <= 22 * GIB)

    monkeypatch.setattr(fitting, "stage_memory", memory)
    found = fitting._fitting(placed(Cluster(micro_batch=512), 1), kept=False)
    assert found and found.cluster.micro_batch == 16 and tried == [512, 1, 16, 32]
