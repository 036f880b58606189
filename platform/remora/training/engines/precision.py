"""Half precision: what a pass computes in, and fp16's loss scale."""

from __future__ import annotations

import math

import torch

from remora.spec import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, GROW_AFTER = 2.0**16, 1000
"""fp16's loss scale at the start, as torch.amp.GradScaler's, and after how many good steps it doubles, half of its."""


class LossScale:
    """What losses are multiplied by, so that fp16's gradients do not vanish below 6e-8. In other precisions it is 1.

    torch's own scaler leaves a step out that overflowed, and so loses its samples; here it is taken again.
    """

    def __init__(self, precision: Precision) -> None:
        self.used = precision == "fp16"
        self.value = FIRST_SCALE if self.used else 1.0
        self.good = 0
        """Steps since the scale last changed."""

    def overflowed(self, norm: float) -> bool:
        """After a step with this gradient norm: whether the scale was too large and is now half of it. It doubles
        after `GROW_AFTER` good steps."""
        if not self.used:
            return False
        again = not math.isfinite(norm) and self.value > 1.0
        self.good = 0 if again else self.good + 1
        if again or self.good == GROW_AFTER:
            self.value, self.good = self.value * (0.5 if again else 2.0), 0
        return again
