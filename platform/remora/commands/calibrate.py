"""`remora plan --calibrate`: a few real steps of each kind of stage, from which plans take their time.

They are trained by the code that trains, on real data and weights, in a run folder inside the run folder, and read by
`runs.rates` as any stage run. No stage run of the user's is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from remora.commands.options import Workplace
from remora.commands.run import executor_of
from remora.pipeline.variant import run_variant
from remora.runs import Store, resolve_stages, variant_name
from remora.runs.rates import CALIBRATION, kind_of
from remora.spec import PARTS, Variant

STEPS = 12
"""Steps of each kind of stage; the first of them are left out (`runs.rates.WARM`)."""


def calibrate(variants: Sequence[Variant], place: Workplace, tell: Callable[..., None]) -> None:
    """Take a few steps of each kind of stage, with the spec's workers: on Ray with an address, else on this machine.

    Raises:
        RemoraError: data or weights are not here, or what training met.
    """
    scratch = _scratch(place.runs)
    done: set[str] = set()
    local = not place.ray_cluster
    here = Workplace(scratch, place.address, place.tracking_uri, local)
    with executor_of(here, tell) as executor:
        for variant in variants:
            parts = {part: str(getattr(variant, part)) for part in PARTS}
            stages = resolve_stages(variant)
            kinds = {kind_of(s.name, {p: parts[p] for p in s.tune.present}) for s in stages}
            if kinds <= done:
                continue
            done |= kinds
            tell(f"calibrating: {STEPS} steps of each stage of {variant_name(variant)}")
            run_variant(shortened(variant), scratch, executor, "calibration")


def shortened(variant: Variant) -> Variant:
    """The variant with a few steps a stage, and nothing that is measured."""
    few: dict[str, object] = {"steps": STEPS, "validate": None, "warmup_from": "first"}
    own = {stage.name: variant.overrides.get(stage.name, {}) for stage in resolve_stages(variant)}
    overrides = {name: {k: v for k, v in said.items() if k != "epochs"} | few for name, said in own.items()}
    return variant.model_copy(update={"overrides": overrides, "benchmarks": ()})


def _scratch(runs: Path) -> Path:
    """A run folder of its own, with the data and weights of the other."""
    scratch, store = runs / CALIBRATION, Store(runs)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for folder in (store.data, store.cache):
        folder.mkdir(parents=True, exist_ok=True)
        (scratch / folder.name).symlink_to(folder, target_is_directory=True)
    return scratch
