"""Errors for which a worker group is not restarted, because they are permanent. No cluster is started."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from remora.carrier import Carried, carried
from remora.cluster.train import refusal
from remora.errors import DataError, StoreError, TrainingError


class Failed(Exception):
    """As Ray Train's: the traces of its workers, as text."""

    __module__ = "ray.train"

    def __init__(self, *worker_failures):
        self.worker_failures = dict(enumerate(worker_failures))


def trace(error):
    """What a worker leaves of an error: a trace, which ends with it."""
    try:
        with carried(Path("/nowhere/logs")):
            raise error
    except Carried:
        return RuntimeError(traceback.format_exc())


MET = [
    StoreError("/runs: the disk is full; free or choose another with --runs DIR"),
    DataError("picture 3 is broken; next: remora data check x"),
    TrainingError("stage 'one', step 3: the loss is nan"),
]


@pytest.mark.parametrize("error", MET, ids=lambda e: type(e).__name__)
def test_an_error_of_ours_is_told_as_the_worker_met_it(error):
    found = refusal(Failed(trace(ValueError("a neighbour's")), trace(error)))
    assert type(found) is type(error) and str(found) == str(error)


@pytest.mark.parametrize(
    "error",
    [Failed(), Failed(trace(OSError(5, "lost"))), Failed(trace(ValueError("remora.errors.DataError: no"))), KeyError()],
)
def test_anything_else_is_tried_again(error):
    assert refusal(error) is None
