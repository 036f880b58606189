"""MLflow's message when it cannot be opened is shown as the cause: whole, and without its advice on databases."""

from __future__ import annotations

import pytest

from remora.tracking.connection import _reason

OLD = "Detected out-of-date database schema (found version a, but expected b). Take a backup of your database, " * 3


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (OLD, "Detected out-of-date database schema (found version a, but expected b)"),
        (" No such registry 'foo://x'; known: ['', 'file'].", "No such registry 'foo://x'; known: ['', 'file']"),
        ("x" * 300, "x" * 199 + "…"),
        ("", "OSError"),
    ],
)
def test_a_reason_is_never_half_a_sentence(said: str, told: str) -> None:
    assert _reason(OSError(said)) == told
