"""Rows of tables: which columns are read. Parquet, Arrow and tables of text share these rules."""

from __future__ import annotations

from collections.abc import Collection

from remora.data.conversation import short
from remora.data.sources.forms import keys_read, needed
from remora.errors import DataError


def columns(names: Collection[str], file: str) -> tuple[list[str], tuple[str, ...]]:
    """(columns that make a record, columns that nothing reads) of a table, in the rules of `forms.words_of`.

    Raises:
        DataError: they make none; what the table has is named.
    """
    found = keys_read(names)
    repeated = {n for n in names if list(names).count(n) > 1}
    if not found or set(found) & repeated:
        has = ", ".join(short(n, 40) for n in names) or "none"
        why = "are not told apart by their names" if found else "make no record"
        raise DataError(f"dataset file {file}: its columns ({has}) {why}; {needed(names)}"[:1000])
    return found, tuple(dict.fromkeys(n for n in names if n not in found))
