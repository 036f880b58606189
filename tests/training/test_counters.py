"""Energy and use: counters that begin again, that several ranks share, that nobody can read."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import pytest

from remora.tracking import metric_names
from remora.training import totals
from remora.training.counters import Counters, Gpu, together


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def package(root: Path, name: str, microjoules: int, called: str = "package-0") -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(called)
    (folder / "max_energy_range_uj").write_text("1000000\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def proc(root: Path, busy: int, idle: int, free: int) -> None:
    root.mkdir(exist_ok=True)
    (root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    (root / "meminfo").write_text(f"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {free} kB\n")


def test_a_processors_counter_that_begins_again_loses_nothing(tmp_path: Path) -> None:
    clock, rapl = Clock(), tmp_path / "rapl"
    folder = package(rapl, "intel-rapl:0", 900_000)
    package(rapl, "intel-rapl:0:0", 5, "core")  # a share of the package
    package(rapl, "intel-rapl:1", 5, "psys")  # all of it again
    counters = Counters(rapl=rapl, proc=tmp_path, clock=clock)
    assert counters.kinds == ["cpu"]
    assert counters.tell()[3] == 0.0
    clock.now = 0.5
    package(rapl, folder.name, 950_000)
    assert counters.tell()[3] == 0.0  # read a moment ago
    for clock.now, now, joules in ((2.0, 950_000, 0.05), (4.0, 100_000, 0.2), (6.0, 150_000, 0.25)):
        package(rapl, folder.name, now)
        assert counters.tell()[3] == pytest.approx(joules)


def test_what_no_counter_says_is_left_out(tmp_path: Path) -> None:
    counters = Counters("no-such-gpu", rapl=tmp_path / "none", proc=tmp_path / "none")
    assert counters.kinds == [] and math.isnan(counters.tell()[1]) and math.isnan(counters.tell()[3])
    assert together(*([each] * 2 for each in counters.tell())) == {}
    assert together([1, 2], [5.0, math.nan], [9, 9], [1.0, 1.5]) == {"cpu_joules": 1.5}  # one GPU does not count


def test_ranks_that_share_a_counter_count_it_once() -> None:
    told = together([1, 1, 2, 3], [10, 11, 5, 7], [8, 8, 8, 9], [2, 2.5, 2, 4])
    assert told == {"gpu_joules": 11 + 5 + 7, "cpu_joules": 2.5 + 4}


def test_use_has_mlflows_names_and_comes_every_ten_seconds(tmp_path: Path) -> None:
    clock = Clock()
    proc(tmp_path / "proc", busy=100, idle=100, free=500)
    counters = Counters(rapl=tmp_path, proc=tmp_path / "proc", clock=clock)
    assert counters.used() == {}
    clock.now = 10.0
    proc(tmp_path / "proc", busy=130, idle=110, free=250)
    found = counters.used()
    assert found["cpu_utilization_percentage"] == 75.0
    assert found["system_memory_usage_percentage"] == 75.0 and counters.used() == {}
    event = {"event": "step", "step": 3, "time": 1.0, "loss": 2.0, "energy": {"cpu_joules": 4.0}, "system": found}
    told = metric_names.step_of(event)
    assert told and told[2]["system/cpu_utilization_percentage"] == 75.0 and told[2]["energy.cpu_joules"] == 4.0


class Library:
    """NVML of one GPU: each call writes into what it is given."""

    def __init__(self, millijoules: int) -> None:
        self.millijoules = millijoules

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, into) -> int:
        into._obj.value = self.millijoules
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle, into) -> int:
        into._obj.gpu = 40
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, into) -> int:
        into._obj.total, into._obj.used = 100, 25
        return 0

    def nvmlDeviceGetPowerUsage(self, handle, into) -> int:
        return 3  # not supported


def test_a_gpus_energy_is_what_nvml_counted(tmp_path: Path, monkeypatch) -> None:
    library, clock = Library(5_000), Clock()
    monkeypatch.setattr(Gpu, "found", lambda uuid: Gpu(library, ctypes.c_void_p()))
    counters = Counters("u", rapl=tmp_path, proc=tmp_path, clock=clock)
    assert counters.kinds == ["gpu"]
    library.millijoules, clock.now = 7_500, 20.0
    assert counters.tell()[1] == 2.5
    assert counters.used() == {
        "gpu_0_utilization_percentage": 40.0,
        "gpu_0_memory_usage_megabytes": 25e-6,
        "gpu_0_memory_usage_percentage": 25.0,
    }


def test_attempts_add_up_and_what_was_not_recorded_is_not_zero() -> None:
    def started(attempt: int, **more: object) -> dict:
        return {"event": "started", "time": 0.0, "attempt": attempt, **more}

    def step(attempt: int, joules: float) -> dict:
        return {"event": "step", "step": 0, "time": 0.0, "attempt": attempt, "energy": {"gpu_joules": joules}}

    two = [started(1, counters=["gpu"]), step(1, 5), step(1, 9), started(2, counters=["gpu"]), step(2, 4)]
    assert totals.energy(two) == {"gpu_joules": 13.0}
    assert totals.energy([started(1, counters=[]), step(1, 0) | {"energy": {}}]) == {}
    assert totals.energy([started(1), step(1, 5)]) is None and totals.energy([]) is None
