"""Where records come from: each module reads one format, shard by shard, as LLaVA records."""

from __future__ import annotations

from remora.data.locations import is_url
from remora.data.sources.base import Raw, Shard, Source
from remora.data.sources.llava import JsonLines, LlavaJson
from remora.errors import DataError

__all__ = ["Raw", "Shard", "Source", "find_source", "is_url"]


def find_source(location: str) -> Source:
    """The source at a location, by its name.

    Raises:
        DataError: no format is known by that name.
    """
    if location.endswith(".json"):
        return LlavaJson(location)
    if location.endswith(".jsonl"):
        return JsonLines(location)
    raise DataError(f"dataset {location}: no format is known by that name; there are .json and .jsonl")
