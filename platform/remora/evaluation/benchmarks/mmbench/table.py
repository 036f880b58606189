"""MMBench's table as distributed: tab separated with pictures as base64, or the hub's Parquet.

In tables from before 2023-10 every row has its picture; in later ones a row may have the index of the row that does.
A question is asked once with every rotation of its options, as index + k x 1,000,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remora.errors import DataError
from remora.evaluation.answers import Warnings
from remora.evaluation.benchmarks.mmbench.cells import (
    MISSING,
    SheetRow,
    column_name,
    inferred,
    read_tsv,
    through_workbook,
)
from remora.evaluation.benchmarks.prompts import LETTERS
from remora.evaluation.hub_tables import InParquet, parquet_rows

ROTATIONS = 1_000_000
REFERENCE = 64
"""An image cell of at most this many characters is the index of another row (VLMEvalKit, image_base.py)."""
NEEDED = ("index", "question", "A")


@dataclass(frozen=True)
class Rotation:
    """One row: a question with one rotation of its options.

    `options` are those that a scorer of LLaVA's upload sees, without missing ones.
    """

    index: int
    options: dict[str, str]
    cells: dict[str, str | None]
    image: str | InParquet | None

    @property
    def question(self) -> int:
        """The index shared by all rotations of its options."""
        return self.index % ROTATIONS

    def cell(self, column: str) -> str:
        return self.cells.get(column) or ""


@dataclass(frozen=True)
class Table:
    path: Path
    columns: list[str]
    rows: dict[int, Rotation]

    def picture(self, row: Rotation) -> str | InParquet | None:
        """A row's picture, wherever it is stored; a text is base64."""
        if isinstance(row.image, str) and len(row.image) <= REFERENCE:
            holder = self.rows.get(whole(row.image) or 0)
            return holder.image if holder else row.image
        return row.image

    def groups(self) -> dict[int, str]:
        """By index, the first question that shows the same picture."""
        first: dict[str | int, int] = {}
        found = {}
        for index, row in self.rows.items():
            picture = self.picture(row)
            key = picture if isinstance(picture, str) else row.question
            found[index] = str(first.setdefault(key, row.question))
        return found


def whole(text: str | None) -> int | None:
    """An index in any spelling of tables and JSON: 241, "241" or 241.0."""
    digits = (text or "").strip().removesuffix(".0")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def find_table(data: Path) -> list[Path]:
    """The files of one table: `data` itself, or those in that folder; dev is preferred to test.

    Raises:
        DataError: there is none, or more than one.
    """
    if data.is_file():
        return [data]
    if not data.exists():
        raise DataError(f"missing MMBench's table: {data} does not exist; expected its TSV or a folder that holds it")
    tables: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(data.rglob("*.tsv")):
        if _is_table(path):
            tables[str(path), "dev" if "dev" in path.name.lower() else ""] = [path]
    for path in sorted(data.rglob("*-*-of-*.parquet")):
        tables.setdefault((str(path.parent), path.name.split("-")[0]), []).append(path)
    chosen = [files for (_, split), files in tables.items() if split == "dev"] or list(tables.values())
    if not chosen:
        expected = "a *.tsv with the columns index, question and A, or dev-*.parquet"
        raise DataError(f"missing MMBench's table: expected {expected} in {data}")
    if len(chosen) > 1:
        names = ", ".join(str(files[0].relative_to(data)) for files in chosen)
        raise DataError(f"{data} holds {len(chosen)} tables of MMBench ({names}); give the one that is meant")
    return chosen[0]


def _is_table(path: Path) -> bool:
    """Whether it is a table and not a file of predictions, which has the same columns and one more."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            header = {column_name(h.strip().strip('"')) for h in file.readline(10_000).split("\t")}
    except OSError:
        return False
    return header.issuperset(NEEDED) and "prediction" not in header


def read_table(data: Path, warnings: Warnings) -> Table:
    """MMBench's table from any of its layouts.

    Raises:
        DataError: it is missing, or not a table of MMBench.
    """
    files = find_table(data)
    path = files[0]
    lines = list(_parquet(files) if path.suffix == ".parquet" else _tsv(path))
    if not lines or not lines[0][0].cells.keys() >= set(NEEDED):
        raise DataError(f"{path}: no table of MMBench; expected the columns index, question, A, B, C, D and answer")
    columns = list(lines[0][0].cells)
    letters = [c for c in columns if c in LETTERS]
    options = {c: through_workbook(inferred(line.cells[c] for line, _ in lines)) for c in letters}
    pictured = any(image for _, image in lines)
    rows: dict[int, Rotation] = {}
    for i, (line, image) in enumerate(lines):
        where = f"{path.name}:{line.number}"
        index = whole(line.cells["index"])
        if index is None:
            warnings.add("rows without an index", f"{where}: {line.cells['index']!r:.60} is not an index; left out")
        elif pictured and not image:
            warnings.add("rows without a picture", f"{where}: {index} has no picture; left out, as VLMEvalKit does")
        else:
            if index in rows:
                warnings.add("repeated rows", f"{where}: another row of index {index}; this one counts")
            choices = {c: text for c in letters if (text := options[c][i]) is not None}
            rows[index] = Rotation(index, choices, {c: _known(line.cells[c]) for c in columns if c != "image"}, image)
    if not rows:
        raise DataError(f"{path}: none of its rows can be used; download MMBench's table again")
    return Table(path, columns, rows)


def _known(cell: str | None) -> str | None:
    return None if cell in MISSING else cell


def _tsv(path: Path) -> Iterator[tuple[SheetRow, str | None]]:
    """Rows with their picture's text; equal texts are held once: a table has 300 MB of them."""
    held: dict[str, str] = {}
    for line in read_tsv(path):
        image = _known(line.cells.pop("image", None))
        yield line, held.setdefault(image, image) if image else None


def _parquet(files: list[Path]) -> Iterator[tuple[SheetRow, InParquet]]:
    for number, row in enumerate(parquet_rows(files, ("image",)), 1):
        image = row.pop("image")
        yield SheetRow(number, {column_name(c): None if v is None else str(v) for c, v in row.items()}), image
