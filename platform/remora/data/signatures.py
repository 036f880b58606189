"""Recognise unsupported files by their first bytes, and strip what is not pixels from picture files."""

from __future__ import annotations

import re
import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"
CONVERT = "convert it to JPEG or PNG"
OTHERS = {
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"SIMPLE  =": "FITS",
    b"DDS ": "a DDS texture",
    b"qoif": "QOI",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "HDF5",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"gimp xcf": "GIMP's XCF",
    b"\x1aE\xdf\xa3": "a video (Matroska)",
    b"\0\0\x01\xba": "a video (MPEG)",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
}
"""First bytes -> unsupported kind of file."""
BRANDS = {
    b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC", b"hevx": "HEIC",
    b"mif1": "HEIF", b"msf1": "HEIF", b"avci": "HEIF", b"crx ": "a camera's raw file (CR3)",
}  # fmt: skip
"""Brands of ISO media files that are unsupported picture formats; AVIF is supported."""
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
XMP, RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
SMALL = 1 << 16
"""Maximum bytes of a text chunk that may have the orientation and is kept."""
INFLATED = 1 << 20
"""Maximum bytes of such a text when decompressed (Pillow's limit)."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def what_it_is(content: bytes) -> tuple[str, str, str] | None:
    """(kind, description, advice) for bytes that are known to be something unsupported; None for all others."""
    head = content[:512]
    for start, name in OTHERS.items():
        if head.startswith(start):
            return "unsupported-image", f"{name}, which is not supported", CONVERT
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(len(head), int.from_bytes(head[:4])), 4))]
        if b"avif" in brands or b"avis" in brands:
            return None
        name = next((BRANDS[b] for b in brands if b in BRANDS), "a video (MP4)")
        return "unsupported-image", f"{name}, which is not supported", CONVERT
    if head[128:132] == b"DICM":
        return "unsupported-image", "DICOM, which is not supported", CONVERT
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "corrupt-image", "a Git LFS pointer, not the file itself", "fetch it (git lfs pull)"
    lower = content[:4096].lower()
    if text.startswith(b"<") and is_text(text):
        if b"<svg" in lower:
            return "unsupported-image", "SVG, which is not supported", "render it to PNG"
        return "corrupt-image", "a web page or XML, not a picture", "download the picture itself"
    return None


def is_text(content: bytes) -> bool:
    """Whether the file begins with text: UTF-8 without control characters."""
    head = content[:512]
    try:
        head.decode()
    except UnicodeDecodeError as e:
        if e.reason != "unexpected end of data":
            return False
    return TEXT.fullmatch(head) is not None


def png_pixels(content: bytes) -> bytes:
    """A PNG without chunks that its pixels do not need (texts, profiles, later frames), so that faults in them do not
    matter. Chunks that may have the orientation stay. Other files are returned unchanged."""
    if not content.startswith(PNG):
        return content
    kept, start, at = [], 0, len(PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):  # truncated: the decoder reports it
            break
        ancillary = bool(kind[0] & 0x20) and kind.isalpha()
        if ancillary and not (kind == b"tRNS" or _may_turn(kind, content[at + 8 : end])):
            kept.append(memoryview(content)[start:at])
            start = end
        at = end
        if kind == b"IEND":
            break
    return b"".join([*kept, memoryview(content)[start:]]) if kept else content


def jpeg_scans(content: bytes, most: int) -> int:
    """Number of scans of a JPEG, counted up to `most` + 1; 0 for any other file."""
    if not content.startswith(b"\xff\xd8") or content.count(b"\xff\xda") <= most:
        return 0
    at = scans = 0
    while scans <= most and (found := _MARKER.search(content, at)):
        marker, at = content[found.start() + 1], found.end()
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        if marker not in (0x01, 0xD8) and at + 2 <= len(content):
            at += int.from_bytes(content[at : at + 2])
    return scans


def _may_turn(kind: bytes, rest: bytes) -> bool:
    """Whether a chunk (its data and checksum) may have the orientation and is harmless."""
    data = rest[:-4]
    if zlib.crc32(kind + data) != int.from_bytes(rest[-4:]):
        return False
    if kind == b"eXIf":
        return True
    if len(data) > SMALL or not data.startswith((XMP, RAW_EXIF)):
        return False
    if kind == b"zTXt":
        inflating = zlib.decompressobj()
        try:
            inflating.decompress(data.partition(b"\0")[2][1:], INFLATED)
        except zlib.error:
            return False
        return not inflating.unconsumed_tail
    return kind == b"tEXt" or (kind == b"iTXt" and data[len(XMP) + 1 : len(XMP) + 2] == b"\0")
