"""Errors between processes: ours arrive as themselves, anything else as one line that names its log."""

from __future__ import annotations

import pickle
import re
import traceback

import pytest

from remora import errors
from remora.carrier import Carried, arrived, carried, ours, pack, unpack
from remora.errors import BrokenRecord, DataError, RemoraError, StoreError, TooLong, TrainingError, WorkerError

EVERY = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RemoraError)]


def rays(text="", **fields):
    """An exception of Ray's."""
    made = type("RayTaskError", (Exception,), {"__module__": "ray.exceptions"})(text)
    vars(made).update(fields)
    return made


def left(error, logs):
    """What leaves the process with the error, and the traceback that others get."""
    with pytest.raises(Carried) as e, carried(logs):
        raise error
    return e.value, "".join(traceback.format_exception(e.value))


@pytest.mark.parametrize("kind", EVERY, ids=lambda c: c.__name__)
def test_each_error_of_ours_crosses_as_itself(kind, tmp_path):
    error = TooLong(90, 5, 64) if kind is TooLong else kind("the rule; “quoted”, \\n and 100 %; the next command")
    sent, trace = left(error, tmp_path / "logs")
    for found in (
        arrived(pickle.loads(pickle.dumps(sent))),
        unpack(f"(pid=7) \x1b[36m{trace!r}\x1b[0m"),  # escaped, coloured, in the middle of more
        arrived(rays("ray::f()", cause=sent)),
        arrived(rays("ray::g()", cause=rays(trace))),
        arrived(rays("failed", worker_failures={1: rays(trace)})),
    ):
        assert type(found) is kind and str(found) == str(error) and vars(found) == vars(error)
    assert not (tmp_path / "logs").exists()


def test_what_it_carries_beside_its_line_comes_too(tmp_path):
    found = unpack(pack(BrokenRecord("no picture", "missing-image", "gone")))
    assert (found.kind, found.problem) == ("missing-image", "gone")


def test_a_class_that_is_not_in_the_tree_arrives_as_what_it_is_a_kind_of():
    class Local(TrainingError):
        pass

    assert type(unpack(pack(Local("step 3")))) is TrainingError


def test_what_nobody_foresaw_names_the_log_that_holds_its_own_trace(tmp_path):
    def deep():
        raise KeyError("x")

    logs = tmp_path / "logs"
    with pytest.raises(Carried) as e, carried(logs):
        deep()
    found = arrived(rays(str(e.value)))
    assert type(found) is WorkerError
    line = re.fullmatch(r"unexpected KeyError: 'x'; this is a fault of Remora \(trace: (.*)\)", str(found))
    assert line and line[1].startswith(f"{logs}/error-")
    (log,) = logs.iterdir()
    assert str(log) == line[1] and "in deep" in log.read_text()


def test_of_several_workers_the_one_that_a_person_can_help_is_told(tmp_path):
    _, neighbour = left(RuntimeError("connection closed by peer"), tmp_path)
    _, culprit = left(DataError("picture 3 is broken"), tmp_path)
    failed = rays("failed", worker_failures={0: rays(neighbour), 1: rays(culprit), 2: rays(neighbour)})
    assert str(ours(failed, tmp_path)) == "picture 3 is broken"


def test_a_full_disk_is_a_persons_to_mend_wherever_it_is(tmp_path):
    sent, _ = left(OSError(28, "No space left on device", "/runs/x"), tmp_path / "logs")
    found = arrived(sent)
    assert type(found) is StoreError and str(found).startswith("/runs/x: No space left on device; next: ")


def test_an_error_passed_on_is_carried_once_and_an_interrupt_is_not(tmp_path):
    first, _ = left(DataError("once"), tmp_path)
    again, _ = left(first, tmp_path)
    assert str(again) == str(first)
    with pytest.raises(KeyboardInterrupt), carried(tmp_path):
        raise KeyboardInterrupt


def test_a_text_without_an_error_holds_none():
    assert unpack("remora.errors.DataError: no", "remora-error:;") is None
    assert arrived(ValueError("x")) is None
