"""Tables as MMBench's tools exchange them: tab separated or xlsx, with the cells that pandas changes.

VLMEvalKit (e8e78f0) and LLaVA (c121f04) read tables with pandas, which makes an answer of `None` or `N/A` a missing
cell and an option of `2` in a column of numbers and gaps `2.0`; both change scores.
"""

from __future__ import annotations

import csv
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError

MISSING = frozenset(
    {
        *("", "NA", "N/A", "n/a", "#NA", "#N/A", "#N/A N/A", "<NA>", "NULL", "null", "None"),
        *("nan", "NaN", "-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    }
)
"""Texts that pandas reads as missing (`na_values` of read_csv and read_excel)."""
ERRORS = frozenset({"#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A"})
"""Texts that a sheet stores as errors."""
BROKEN = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, NotImplementedError),
    *(SyntaxError, zipfile.BadZipFile, zlib.error, RuntimeError),
)
"""Exceptions of openpyxl and its dependencies for a file that is not a workbook (SyntaxError: truncated XML)."""

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)


@dataclass(frozen=True)
class SheetRow:
    """One row: its position in the file, from 1, and its cells by column. None is an empty cell."""

    number: int
    cells: dict[str, str | None]


def column_name(header: str) -> str:
    """Column names are lower case, except the options A, B, C and so on."""
    return header if len(header) == 1 and "A" <= header <= "Z" else header.lower()


def read_tsv(path: Path) -> Iterator[SheetRow]:
    """Rows of a tab separated file with a header.

    Raises:
        DataError: it cannot be read.
    """
    csv.field_size_limit(sys.maxsize)  # a picture is longer than the module's limit
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file, delimiter="\t")
            header = next(reader, [])
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield _line(reader.line_num, header, cells)
    except (OSError, csv.Error) as e:
        raise DataError(f"unreadable table: {path} ({e})") from None


def read_xlsx(path: Path) -> Iterator[SheetRow]:
    """Rows of a workbook's first sheet.

    Raises:
        DataError: it is not a workbook.
    """
    from openpyxl import load_workbook  # half a second, and most answers are JSON
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles that it does not know
            book = load_workbook(path, read_only=True, data_only=True)
            rows = [[_text(v) for v in row] for row in book.worksheets[0].iter_rows(values_only=True)]
            book.close()
    except (*BROKEN, InvalidFileException) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise DataError(f"{path}: not an xlsx workbook ({reason}); write it again") from None
    header = [cell or "" for cell in rows[0]] if rows else []
    for number, cells in enumerate(rows[1:], 2):
        if any(cell for cell in cells):
            yield _line(number, header, cells)


def _line(number: int, header: Sequence[str], cells: Sequence[str | None]) -> SheetRow:
    padded = [*cells, *[None] * (len(header) - len(cells))]
    return SheetRow(number, {column_name(h): (c or None) for h, c in zip(header, padded, strict=False)})


def _text(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value in ERRORS):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def inferred(cells: Iterable[str | None]) -> list[str | None]:
    """A column's cells as pandas reads them: None for `MISSING`, numbers in its own spelling."""
    known = [None if cell is None or cell in MISSING else cell for cell in cells]
    given = [cell for cell in known if cell is not None]
    if given and len(given) == len(known) and all(WHOLE.fullmatch(cell) for cell in given):
        return [_short(cell) for cell in given]
    if given and all(NUMBER.fullmatch(cell) for cell in given):
        return [None if cell is None else str(float(cell)) for cell in known]
    return known


def _short(number: str) -> str:
    """Without plus sign and leading zeros; int() refuses thousands of digits."""
    text = number.strip()
    digits = text.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if text.startswith("-") and digits != "0" else digits


def through_workbook(cells: Iterable[str | None]) -> list[str | None]:
    """A column's texts as read back from the workbook that LLaVA's script writes.

    Text that looks like a formula or an error is lost, and a whole number comes back without its decimal point.
    """
    known = list(cells)
    if all(cell is None or NUMBER.fullmatch(cell) for cell in known):
        return inferred([None if cell is None else _text(float(cell) if "." in cell else cell) for cell in known])
    lost = ERRORS | {""}
    return inferred([None if cell in lost or (cell or "")[:1] == "=" != cell else cell for cell in known])


def write_xlsx(path: Path, header: Sequence[str], rows: Iterable[Sequence[str | int | None]]) -> None:
    """Write a workbook of one sheet. Texts that look like formulas stay texts; invalid characters are dropped."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    sheet.append(list(header))
    for row in rows:
        cells: list[object] = []
        for value in row:
            if isinstance(value, str):
                cell = WriteOnlyCell(sheet, NOT_XML.sub("", value))
                cell.data_type = "s"
                cells.append(cell)
            else:
                cells.append(value)
        sheet.append(cells)
    book.save(path)
