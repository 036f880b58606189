"""Half precision: the dtype of a pass, and fp16's loss scale."""

from __future__ import annotations

import math

import torch

from remora.spec import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE, GROW_AFTER = 2.0**16, 1000
"""fp16's initial loss scale, that of torch.amp.GradScaler, and the good steps after which it doubles, half of
GradScaler's."""


class LossScale:
    """A factor on losses, so that fp16's gradients do not underflow (below 6e-8). In other precisions it is 1.

    torch's scaler skips a step that overflowed, and so loses its samples; here it is repeated.
    """

    def __init__(self, precision: Precision) -> None:
        self.used = precision == "fp16"
        self.value = FIRST_SCALE if self.used else 1.0
        self.good = 0
        """Steps since the scale last changed."""

    def overflowed(self, norm: float) -> bool:
        """Update after a step with this gradient norm: if the scale was too large, halve it and return True. It doubles
        after `GROW_AFTER` good steps."""
        if not self.used:
            return False
        again = not math.isfinite(norm) and self.value > 1.0
        self.good = 0 if again else self.good + 1
        if again or self.good == GROW_AFTER:
            self.value, self.good = self.value * (0.5 if again else 2.0), 0
        return again
