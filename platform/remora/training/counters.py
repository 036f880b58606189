"""What training draws and keeps busy: counters of energy, and the use of this rank's machine and GPU.

A GPU's energy is what NVIDIA's library (NVML) has counted for it, the processor's what Linux shows of RAPL, which most
systems let only root read. Both count everything that ran there meanwhile. What cannot be read is left out, and no
figure is estimated.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

RAPL = Path("/sys/class/powercap")
PROC = Path("/proc")
APART, USED_APART = 1.0, 10.0
"""Seconds between two readings of the counters, and of what is in use."""
CounterReading = tuple[float, float, float, float]
"""(GPU, its joules, machine, its processors' joules); NaN where there is no counter. GPU and machine are numbers that
tell ranks which of them read the same counter."""


class Counters:
    """One rank's. `gpu` is its device's UUID as torch has it, or None."""

    def __init__(
        self,
        gpu: str | None = None,
        rapl: Path = RAPL,
        proc: Path = PROC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc, self._clock = proc, clock
        self._gpu = Gpu.found(gpu) if gpu else None
        self._packages = [p for p in map(Package, sorted(rapl.glob("intel-rapl:*"))) if p.readable]
        self._gpu_id, self._host_id = float(zlib.crc32((gpu or "").encode())), float(zlib.crc32(_host().encode()))
        self._first = self._gpu.joules() if self._gpu else math.nan
        self._read, self._told = -math.inf, (self._gpu_id, math.nan, self._host_id, math.nan)
        self._used = clock()
        self._busy = self._cpu()

    @property
    def kinds(self) -> list[str]:
        """The counters that can be read: gpu, cpu."""
        return [*(["gpu"] if not math.isnan(self._first) else []), *(["cpu"] if self._packages else [])]

    def tell(self) -> CounterReading:
        """Joules since it was made, at most `APART` seconds old."""
        if self.kinds and self._clock() - self._read >= APART:
            self._read = self._clock()
            gpu = self._gpu.joules() - self._first if self._gpu else math.nan
            cpu = sum(p.joules() for p in self._packages) if self._packages else math.nan
            self._told = (self._gpu_id, gpu, self._host_id, cpu)
        return self._told

    def used(self) -> dict[str, float]:
        """What is in use, by MLflow's names of system metrics; empty if that was told less than `USED_APART` ago."""
        if self._clock() - self._used < USED_APART:
            return {}
        self._used = self._clock()
        before, self._busy = self._busy, self._cpu()
        found = dict(self._memory())
        if before and self._busy and (ticks := self._busy[1] - before[1]) > 0:
            found["cpu_utilization_percentage"] = 100 * (self._busy[0] - before[0]) / ticks
        return found | (self._gpu.used() if self._gpu else {})

    def _cpu(self) -> tuple[int, int] | None:
        """(Busy ticks, all ticks) of all processors."""
        try:
            ticks = [int(n) for n in (self._proc / "stat").read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        return sum(ticks) - sum(ticks[3:5]), sum(ticks)  # the fourth and fifth: idle, and waiting for a disk

    def _memory(self) -> Iterator[tuple[str, float]]:
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
            lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
            kib = {words[0]: int(words[1]) for words in lines if len(words) > 1}
            used = kib["MemTotal:"] - kib["MemAvailable:"]
            yield "system_memory_usage_megabytes", used * 1024 / 1e6
            yield "system_memory_usage_percentage", 100 * used / kib["MemTotal:"]


class Package:
    """A processor's counter, which starts again from 0 where it ends."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._last, self._sum = self._read(), 0
        try:
            self._range = int((folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            self._range = 0
        # `intel-rapl:0:0` is a share of `intel-rapl:0`, and psys is all of it again.
        whole = folder.name.count(":") == 1 and _text(folder / "name").startswith("package")
        self.readable = whole and self._last is not None

    def joules(self) -> float:
        now = self._read()
        if now is not None and self._last is not None:
            self._sum += now - self._last if now >= self._last else now - self._last + self._range
            self._last = now
        return self._sum / 1e6

    def _read(self) -> int | None:
        try:
            return int(self._file.read_text())
        except (OSError, ValueError):
            return None


class _Use(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


Into = TypeVar("Into", ctypes.c_ulonglong, ctypes.c_uint, _Use, _Memory)


class Gpu:
    """A GPU through NVML, whose calls return 0 if all is well."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def found(cls, uuid: str) -> Gpu | None:
        """That with the UUID; None without NVML."""
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            handle = ctypes.c_void_p()
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
                return None
        except (OSError, AttributeError):
            return None
        return cls(library, handle)

    def joules(self) -> float:
        """Since the driver was loaded; NaN of a GPU that does not count."""
        found = self._ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong())
        return found.value / 1000 if found else math.nan

    def used(self) -> dict[str, float]:
        said = {}
        if use := self._ask("nvmlDeviceGetUtilizationRates", _Use()):
            said["gpu_0_utilization_percentage"] = float(use.gpu)
        if memory := self._ask("nvmlDeviceGetMemoryInfo", _Memory()):
            said["gpu_0_memory_usage_megabytes"] = memory.used / 1e6
            said["gpu_0_memory_usage_percentage"] = 100 * memory.used / max(1, memory.total)
        if power := self._ask("nvmlDeviceGetPowerUsage", ctypes.c_uint()):
            said["gpu_0_power_usage_watts"] = power.value / 1000
        return said

    def _ask(self, call: str, into: Into) -> Into | None:
        try:
            return None if getattr(self._library, call)(self._handle, ctypes.byref(into)) else into
        except AttributeError:  # an older driver
            return None


def together(
    gpus: Sequence[float], drawn: Sequence[float], hosts: Sequence[float], cpus: Sequence[float]
) -> dict[str, float]:
    """What all ranks tell: the joules of GPUs and of processors, each counter once; without those that a rank lacks."""
    found = {"gpu_joules": _each_once(gpus, drawn), "cpu_joules": _each_once(hosts, cpus)}
    return {name: joules for name, joules in found.items() if not math.isnan(joules)}


def _each_once(whose: Sequence[float], joules: Sequence[float]) -> float:
    """Of ranks that share a counter, the one that read it last."""
    of: dict[float, float] = {}
    for counter, read in zip(whose, joules, strict=True):
        of[counter] = max(of.get(counter, read), read)
    return sum(of.values())


def _host() -> str:
    return f"{socket.gethostname()} {_text(PROC / 'sys/kernel/random/boot_id')}"


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
