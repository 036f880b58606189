"""Which columns of a table are read. Parquet, Arrow, CSV and TSV share these rules."""

from __future__ import annotations

from collections.abc import Collection

from remora.data.conversation import short
from remora.data.sources.forms import keys_read, needed
from remora.errors import DataError


def columns(names: Collection[str], file: str) -> tuple[list[str], tuple[str, ...]]:
    """(columns that are read, columns that are not) of a table, by the rules of `forms.words_of`.

    Raises:
        DataError: the columns fit no format; the message lists them.
    """
    found = keys_read(names)
    repeated = {n for n in names if list(names).count(n) > 1}
    if not found or set(found) & repeated:
        has = ", ".join(short(n, 40) for n in names) or "none"
        why = "have duplicate names" if found else "make no record"
        raise DataError(f"dataset file {file}: its columns ({has}) {why}; {needed(names)}"[:1000])
    return found, tuple(dict.fromkeys(n for n in names if n not in found))
