"""What breaks without each hook of training/engines/hooks.py; a test fails if a DeepSpeed release no longer needs
it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remora.training.engines import hooks
from support.launch import launch

pytestmark = pytest.mark.slow
RANKS = Path(__file__).with_name("hook_ranks.py")
ZERO = ("1", "2", "3")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """There is no compiler, no cache of built ops, and a lock that a killed build left behind."""
    root = tmp_path_factory.mktemp("hooks")
    lock = root / "ops" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    launch(RANKS, 1, root / "out.json", env={"TORCH_EXTENSIONS_DIR": str(root / "ops"), "PATH": str(root)})
    assert [p.name for p in (root / "ops").rglob("*")] == ["deepspeed_shm_comm", "lock"]
    return json.loads((root / "out.json").read_text())


def test_every_hook_has_its_test() -> None:
    named = {name for name, what in vars(hooks).items() if getattr(what, "__module__", "") == hooks.__name__}
    tested = "deepspeed without_mlflow compile_no_op torch_optimizer stepped link_states tell_scale sum_nothing"
    assert named == {*tested.split(), "ZeroParameters"}


def test_without_mlflow(seen) -> None:
    """DeepSpeed's autotuner imports mlflow: 0.9 s and 60 MB of every worker."""
    assert not seen["mlflow"]
    assert (seen["asked"], seen["without"]) == (0, 1)


def test_compile_no_op(seen) -> None:
    """DeepSpeed's init builds `deepspeed_shm_comm` on a CPU: 65 s, an error without a compiler, and for ever where a
    process that was killed meanwhile had left its lock. That `seen` exists says that nothing was built."""
    assert (seen["op"], seen["op without"]) == (False, True)


@pytest.mark.parametrize("zero", ZERO)
def test_torch_optimizer(seen, zero) -> None:
    """What DeepSpeed gives back has no state of AdamW's: the counters of steps could not be set."""
    assert seen[zero]["below"] == "AdamW" != seen[zero]["above"]


@pytest.mark.parametrize("zero", ZERO)
def test_stepped(seen, zero) -> None:
    """At stage 3 the groups are empty between steps: no state could be made or loaded before the first."""
    assert seen[zero]["numbers stepped"] >= 9  # two layers' weights, padded to what ranks can share
    assert (seen[zero]["numbers in groups"] == 0) == (zero == "3")


@pytest.mark.parametrize("zero", ZERO)
def test_link_states(seen, zero) -> None:
    """At stages 1 and 2 a state that is made before any step is not found under its parameter ("exp_avg not found")."""
    assert seen[zero]["linked"] == 4
    assert seen[zero]["linked without"] == (4 if zero == "3" else 0)


@pytest.mark.parametrize("zero", ZERO)
def test_tell_scale(seen, zero) -> None:
    """Without the hook losses are not scaled, so fp16's gradients underflow below 6e-8; with it, they are, and the norm
    is still that of unscaled gradients."""
    unscaled, scaled = seen[zero]["unscaled"], seen[zero]["scaled"]
    assert scaled["slope"] == 1024 * unscaled["slope"]
    assert scaled["norm"] == pytest.approx(unscaled["norm"], rel=0.5)  # there is a step between them


def test_sum_nothing(seen) -> None:
    """A single rank would copy its gradients to a bucket, all-reduce them with itself, and copy them back."""
    assert seen["sums"] == 0 < seen["sums without"]


def test_zero_parameters(seen) -> None:
    """A rank's share has no shape, and what all ranks write alike is lost unless one of them sends it to the others."""
    found = seen["split"]
    assert found["is split"] and found["held"] == [0] and found["shape"] == [2, 3]
    assert found["written"] == found["written as documented, without a broadcast"] == [[7.0] * 3] * 2
    assert found["like"] == [5, 4] and found["like is split"]
