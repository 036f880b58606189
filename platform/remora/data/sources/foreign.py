"""Recognise files that are not what their name says, by their first bytes, and say what to do."""

from __future__ import annotations

from remora.errors import DataError

HEAD = 512
"""Bytes to look at."""
_KINDS: dict[str, tuple[tuple[bytes, ...], str]] = {
    "a Git LFS pointer": ((b"version https://git-lfs",), "the file itself was not fetched; next: git lfs pull"),
    "a web page (HTML)": (
        (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml"),
        "often a login or an error page; download it again, signed in where that is asked",
    ),
    "a gzip file": ((b"\x1f\x8b",), "next: gunzip it, and give the result"),
    "a zip archive": ((b"PK\x03\x04", b"PK\x05\x06"), "next: unzip it, and give a file of it"),
    "a bzip2 file": ((b"BZh",), "next: bunzip2 it, and give the result"),
    "an xz file": ((b"\xfd7zXZ\x00",), "next: unxz it, and give the result"),
    "a RAR archive": ((b"Rar!\x1a\x07",), "next: unrar it, and give a file of it"),
    "a 7z archive": ((b"7z\xbc\xaf\x27\x1c",), "next: unpack it by 7z x, and give a file of it"),
    "a Zstandard file": ((b"\x28\xb5\x2f\xfd",), "next: unzstd it, and give the result"),
    "a Parquet file": ((b"PAR1",), "name it .parquet"),
    "an Arrow file of random access": ((b"ARROW1",), "save the dataset by save_to_disk, whose files are Arrow streams"),
    "a picture": ((b"\xff\xd8\xff", b"\x89PNG\r\n"), "give the file that holds the records"),
}
_UTF = (
    (b"\x00\x00\xfe\xff", "UTF-32BE"),
    (b"\xff\xfe\x00\x00", "UTF-32LE"),
    (b"\xfe\xff", "UTF-16BE"),
    (b"\xff\xfe", "UTF-16LE"),
)


def refuse_foreign(head: bytes, file: str, wanted: str, but: str = "") -> None:
    """Check that a file's first bytes may be what its name says (`wanted`); `but` is the kind that is allowed.

    Raises:
        DataError: they are of another kind of file.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for kind, (starts, out) in _KINDS.items():
        if kind != but and (head.startswith(starts) or (starts[0][:1] == b"<" and text.startswith(starts))):
            raise DataError(f"dataset file {file} is {kind}, not {wanted}: {out}")
    if head[257:262] == b"ustar" and but != "a tar":
        raise DataError(f"dataset file {file} is a tar, not {wanted}: name it .tar, or unpack it and give a file of it")
    if but:
        return
    if encoding := next((name for mark, name in _UTF if head.startswith(mark)), "") or _wide(head):
        raise DataError(
            f"dataset file {file} is {encoding}, not UTF-8; next: iconv -f {encoding} -t UTF-8 {file} > NEW"
        )


def _wide(head: bytes) -> str:
    """The encoding of UTF-16 without a byte order mark: every other byte of plain text is 0."""
    pairs = len(head) // 2
    if pairs < 2:
        return ""
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    return "UTF-16LE" if odd > 0.8 * pairs and not even else "UTF-16BE" if even > 0.8 * pairs and not odd else ""
