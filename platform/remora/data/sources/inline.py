"""Read a record's picture field: a name, or the picture itself as bytes or base64."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from remora.data.conversation import short
from remora.errors import BrokenRecord

_BASE64 = re.compile(r"(?:iVBOR|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]{60,}={0,2}\s*")
"""Base64 of a PNG, JPEG, GIF or WebP by its first characters. A path like that would have neither dot nor dash."""
_SPACE = re.compile(rb"\s+")


def picture_in(value: object) -> str | bytes | None:
    """A picture's name, or its bytes if the record contains them; None if it is neither.

    Accepts names, bytes, data URIs, base64 of the usual formats, and mappings with `bytes` or one of `path`, `url` and
    `image` (Hugging Face's Image, OpenAI's image_url, content parts).

    Raises:
        BrokenRecord: a data URI or `bytes` that cannot be decoded.
    """
    if isinstance(value, Mapping):
        held = value.get("bytes")
        if isinstance(held, bytes):
            return held
        if held not in (None, ""):  # JSON has no bytes
            if not isinstance(held, str):
                raise BrokenRecord(f"'bytes' is {short(held)}; in JSON it is base64", "image-field")
            return _from_uri(held) if held[:5].lower() == "data:" else _decoded(held.encode(errors="replace"), held)
        return next((picture_in(value[k]) for k in ("path", "url", "image") if value.get(k) is not None), None)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        return None
    if value[:5].lower() == "data:":
        return _from_uri(value)
    if _BASE64.fullmatch(value):
        return _decoded(value.encode(), value)
    return value


def listed(value: object) -> list[object]:
    """The entries of a picture field: those of a list, else the single one."""
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _from_uri(uri: str) -> bytes:
    head, _, body = uri.partition(",")
    if not head.lower().rstrip().endswith(";base64"):
        raise BrokenRecord(f"{short(uri)} is a data URI without base64; write data:image/png;base64,…", "image-field")
    return _decoded(unquote_to_bytes(body.encode(errors="surrogatepass")), uri)


def _decoded(text: bytes, shown: str) -> bytes:
    """Decode base64, also with line breaks, url-safe, or without padding."""
    text = _SPACE.sub(b"", text).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BrokenRecord(f"{short(shown)} is not valid base64; write the picture again", "image-field") from None
