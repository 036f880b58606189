"""Predicted memory is what the real engine takes, tensor by tensor, and a stage that does not fit is told what does."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from remora import catalog
from remora.errors import SpecError
from remora.spec import Cluster, Stage
from support.launch import launch

RANKS = Path(__file__).with_name("memory_ranks.py")
PARTS = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m"}
ALIGN = {"vision": "frozen", "connector": "full", "llm": "frozen"}
TUNE = {"vision": "frozen", "connector": "full", "llm": "full"}
LORA = {"vision": "frozen", "connector": "full", "llm": {"lora": {"r": 16}}}
LAST = {"vision": {"last": 4}, "connector": "full", "llm": {"last": 2}}
TEXT = {"vision": "absent", "connector": "absent", "llm": "full"}


def stage_of(tune: dict[str, object], **more: object) -> Stage:
    given = {"name": "test", "mixture": ["llava-665k"], "lr": 1e-3, "steps": 4, "batch": 8, "tune": tune}
    return Stage.model_validate(given | more)


def case(tune: dict[str, object], several: bool = True, parts: dict[str, str] | None = None, **cluster: object) -> Any:
    shown = 0 if tune is TEXT else 4
    return {
        "stage": stage_of(tune).model_dump(mode="json", by_alias=True),
        "cluster": cluster,
        "parts": PARTS | (parts or {}),
        "pass": [4, 128, shown, 512],
        "several": several,
    }


ALONE = {f"zero {z}, {p}": case(TUNE, zero=z, precision=p) for z, p in product((0, 1, 2, 3), ("fp32", "bf16"))}
ALONE |= {
    "align": case(ALIGN, zero=0),
    "one pass": case(TUNE, several=False, zero=2),
    "padded": case(TUNE, zero=0, rows="padded", precision="bf16"),
    "checkpointing": case(TUNE, zero=0, activation_checkpointing=True, precision="bf16"),
    "lora": case(LORA, zero=0, precision="bf16"),
    "lora, fp32": case(LORA, zero=0),
    "lora, checkpointing": case(LORA, zero=2, precision="bf16", activation_checkpointing=True),
    "last blocks": case(LAST, zero=0),
    "text": case(TEXT, zero=0),
    "resampler": case(ALIGN, zero=0, parts={"connector": "resampler"}),
    "offload": case(TUNE, zero=2, offload="optimizer"),
}
TWO = {f"zero {z}": case(TUNE, zero=z) for z in (0, 1, 2, 3)}


def taken(cases: dict[str, Any], world: int, folder: Path) -> dict[str, dict[str, float]]:
    (folder / "cases.json").write_text(json.dumps(cases))
    launch(RANKS, world, folder / "cases.json", folder / "out.json")
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return taken(ALONE, 1, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return taken(TWO, 2, tmp_path_factory.mktemp("two"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_a_rank_alone_takes_what_is_predicted(alone, name):
    rel = 0.05 if "zero 3" in name else 0.01  # which weights are gathered when is DeepSpeed's secret
    assert alone[name]["traced"] == pytest.approx(alone[name]["measured"], rel=rel)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO)
def test_one_of_two_ranks_takes_what_is_predicted(two, name):
    assert two[name]["traced"] == pytest.approx(two[name]["measured"], rel=0.05)


@pytest.mark.slow
def test_what_fits_nowhere_is_told_and_what_fits_is_traced() -> None:
    """A stage that is too large for an L4 gets settings with which it fits, and those alone that change."""
    from remora.planning.fitting import cheapest_fit
    from remora.runs.memory import PlacedStage, stage_memory

    device, cluster = catalog.device("l4"), Cluster(precision="bf16", micro_batch=8, zero=2)
    placed = PlacedStage(stage_of(TUNE, max_length=512, batch=64), PARTS, cluster, 1, device)
    roomy = stage_memory(placed)
    assert roomy.fits and 0 < roomy.margin < 1
    assert sum(term.size for term in roomy.terms) == roomy.total
    small = device.model_copy(update={"memory": int(roomy.total * 0.8) >> 20})
    change = cheapest_fit(replace(placed, device=small))
    assert change is not None and change.memory.fits and change.settings
    assert all(getattr(cluster, name) != value for name, value in change.settings.items())
    again = stage_memory(replace(placed.with_settings(change.settings), ranks=change.ranks, device=small))
    assert again.total == change.memory.total
    tiny = device.model_copy(update={"memory": 64})
    assert cheapest_fit(replace(placed.with_settings({"micro_batch": 1}), device=tiny)) is None


def test_a_precision_that_a_device_lacks_is_refused() -> None:
    from remora.runs.memory import PlacedStage, stage_memory

    with pytest.raises(SpecError, match=r"Tesla T4 does not compute in bf16; next: set cluster.precision to fp16"):
        stage_memory(PlacedStage(stage_of(TUNE), PARTS, Cluster(precision="bf16"), 1, catalog.device("t4")))


def test_a_devices_throughput_is_said_once() -> None:
    """The catalog's figures are those by which a step's MFU is counted."""
    from remora.training.flops import peak_of

    for name, device in catalog.listed(catalog.Device).items():
        if device.is_gpu:
            for precision in ("bf16", "fp16", "fp32"):
                assert (peak_of(device.named, precision) or 0.0) == device.peak(precision), name
