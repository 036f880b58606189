"""The fields of a device that stages are planned for."""

from __future__ import annotations

from pydantic import Field

from remora.spec import Precision, Spec


class Device(Spec):
    """A kind of GPU, or the CPU."""

    named: str
    """Its name in torch."""
    memory: int | None = Field(None, ge=1)
    """MiB; None for a CPU, which has the machine's."""
    bf16: float = Field(0.0, ge=0)
    """Peak operations per second, dense, with fp32 accumulation; 0 if it does not compute in that precision."""
    fp16: float = Field(0.0, ge=0)
    """The same in fp16."""
    fp32: float = Field(0.0, ge=0)
    """The same in fp32, without TF32."""
    bandwidth: float = Field(0.0, ge=0)
    """Bytes per second of its memory."""
    source: str
    """Where the figures are from."""

    @property
    def is_gpu(self) -> bool:
        return self.memory is not None

    def peak(self, precision: Precision) -> float:
        """Operations per second; 0 if it does not compute in that precision, or for a CPU."""
        return {"bf16": self.bf16, "fp16": self.fp16, "fp32": self.fp32}[precision]
