"""Convert records of many formats, recognised by their keys, to LLaVA's. docs/data.md lists the formats.

Every key is read, refused by name (video, audio), or reported in `Raw.unread`; none is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from remora.data.conversation import TAG, short
from remora.data.sources.base import Raw
from remora.data.sources.inline import listed, picture_in
from remora.data.sources.messages import Pool, is_plain, llava_turns, unread_keys
from remora.errors import BrokenRecord

CONVERSATIONS = ("conversations", "messages")
PAIRS = (("question", "answer"), ("query", "response"), ("instruction", "output"), ("prompt", "completion"))
CAPTIONS = ("caption", "text")
PICTURES = ("image", "images")
ELSE = ("image_path", "image_paths", "image_url", "image_urls")
"""Used if those are absent; beside them, these keys say where a picture came from."""
BESIDE = ("file_name", "path")
"""Only for captions and for questions with one answer; in other formats these keys have other meanings."""
SYSTEMS = ("system", "system_prompt", "system_message")
MORE = ("input", "history")
"""For a pair: the continuation of its question, and earlier questions with answers."""
MEDIA = re.compile(r"(?:video|audio)s?(?:_?(?:file|path|url|byte|name)s?)?")
"""Keys of media that no stage reads."""
_PLAIN = frozenset({"id", "image", "conversations"})
FORMS = (
    "conversations or messages (lists of turns); texts and images; question and answer, query and response, "
    "instruction and output, or prompt and completion; image and caption or text"
)
Turns = list[dict[str, object]]


def words_of(keys: Collection[str]) -> tuple[str, ...]:
    """The keys with a record's text, by the first format that they fit; empty if they fit none."""
    for name in (*CONVERSATIONS, "texts"):
        if name in keys:
            return (name,)
    for pair in PAIRS:
        if pair[0] in keys and pair[1] in keys:
            return pair
    if any(name in keys for name in (*PICTURES, *ELSE, *BESIDE)):
        return tuple(name for name in CAPTIONS if name in keys)[:1]
    return ()


def needed(keys: Collection[str]) -> str:
    """The advice for a record whose keys fit no format."""
    way = "; of a preference make messages: its prompt and the chosen answer" if "chosen" in keys else ""
    return f"a record needs {FORMS}{way}"


def keys_read(keys: Collection[str]) -> list[str]:
    """The keys of a record that are read, text first; empty if they fit no format."""
    words = words_of(keys)
    if not words:
        return []
    more: tuple[str, ...] = (*PICTURES, *ELSE, *SYSTEMS)
    if words not in (("conversations",), ("messages",), ("texts",)):
        more += BESIDE + (MORE if len(words) == 2 else ())
    return [*words, *(k for k in more if k in keys), *(k for k in keys if MEDIA.fullmatch(k)), *({"id"} & {*keys})]


def as_llava(record: object, unread: tuple[str, ...] = ()) -> Raw:
    """Convert a record of any format to LLaVA's: `id`, `image`, `conversations`; unread keys stay as they are.

    Values of the wrong type stay, so that `conversation.problems` reports them. `unread` are names that the source
    skipped.
    """
    if not isinstance(record, dict):
        return Raw(record)
    try:
        raw = _as_llava(record)
    except BrokenRecord as e:
        return Raw(record, problems=((e.kind, str(e)),), unread=unread)
    except RecursionError:
        return Raw(record, problems=(("no-conversation", "the record is nested too deeply"),), unread=unread)
    return Raw(raw.record, raw.pictures, unread=raw.unread + unread)


def _as_llava(record: dict[str, object]) -> Raw:
    if record.keys() <= _PLAIN and is_plain(record.get("conversations")):  # most records: a third of the time
        name = record.get("image")
        if name is None or (isinstance(name, str) and picture_in(name) is name):
            return Raw(record)
    given = {k: v for k, v in record.items() if v is not None}
    for key, value in given.items():
        if MEDIA.fullmatch(key) and not _names_none(value):
            raise BrokenRecord(
                f"{key!r} is {short(value)}: no stage reads video or audio; remove the record, or the key if its text "
                "makes sense without it",
                "unread-media",
            )
    told = given if words_of(given) else record
    read, words = keys_read(told), words_of(told)
    if not read:
        raise BrokenRecord(f"its keys ({_some(record)}) make no record; {needed(given)}", "no-conversation")
    named, passed_by = _named({k: v for k, v in given.items() if k in read})
    pool = Pool(named)
    turns, whole = _turns(told, words, pool)
    said = _with_system(turns, given)
    shown = [picture_in(p) for p in pool.pictures()]
    unread = [k for k, v in given.items() if k not in read and v not in ("", [], {})] + passed_by
    turn_keys = dict.fromkeys(unread_keys(turns, words[0])) if whole else {}
    turn_keys |= dict.fromkeys(f"{words[0]}.{key}" for key in pool.unread)
    rest = {k: v for k, v in given.items() if k not in read or k in passed_by}
    made = {**({"id": given["id"]} if "id" in given else {}), **rest, "conversations": said}
    if any(isinstance(p, bytes) for p in shown):
        if not all(isinstance(p, bytes) for p in shown):
            raise BrokenRecord("some of its pictures are names and some are bytes; give all in one way", "image-field")
        held = tuple(p for p in shown if isinstance(p, bytes))
        return Raw({**made, "image": ["embedded"] * len(held)}, held, unread=(*unread, *turn_keys))
    if shown:
        made["image"] = [n if isinstance(p, type(None)) else p for p, n in zip(shown, pool.pictures(), strict=True)]
    return Raw(made, unread=(*unread, *turn_keys))


def _names_none(value: object) -> bool:
    """Whether the value of a media key means that there is none: null, empty, false, or a list of those."""
    return value is False or value in ("", {}) or (isinstance(value, list) and all(v in (None, "") for v in value))


def _named(record: Mapping[str, object]) -> tuple[list[object], list[str]]:
    """(the record's pictures, other keys with pictures that are therefore not read).

    Raises:
        BrokenRecord: two keys name different ones.
    """
    found = {k: held for k in (*PICTURES, *ELSE, *BESIDE) if (held := listed(record.get(k)))}
    tiers = ([k for k in tier if k in found] for tier in (PICTURES, ELSE, BESIDE))
    used = next((tier for tier in tiers if tier), [])
    if any(found[k] != found[used[0]] for k in used):
        raise BrokenRecord(f"{' and '.join(used)} name different pictures; keep one of them", "image-field")
    return found[used[0]] if used else [], [k for k in found if k not in used]


def _turns(record: Mapping[str, object], words: tuple[str, ...], pool: Pool) -> tuple[Sequence[object], bool]:
    """(its turns in LLaVA's format, whether they were turns originally); pictures without a position come first."""
    name = words[0]
    said = record[name]
    turns: Sequence[object]
    if name in CONVERSATIONS:
        if not isinstance(said, list):
            text = isinstance(said, str) and said.lstrip()[:1] == "["
            way = "it is a list of turns, not the JSON text of one" if text else "it is a list of turns"
            raise BrokenRecord(f"{name!r} is {short(said)}; {way}", "no-conversation")
        turns = llava_turns(said, pool, name)
        if name != "conversations":
            with_tags(turns, len(pool.named))
        return turns, True
    if len(words) == 2 and isinstance(said, list) and isinstance(answer := record[words[1]], list):
        # TRL's prompt and completion
        turns = [*llava_turns(said, pool, name), *llava_turns(answer, pool, words[1])]
        with_tags(turns, len(pool.named))
        return turns, True
    if name == "texts":
        turns = _rounds(said)
    elif len(words) == 2:
        turns = rounds(_pairs(record, said, record[words[1]]))
    else:
        return caption(said, max(1, len(pool.named))), False
    with_tags(turns, len(pool.named))
    return turns, False


def _pairs(record: Mapping[str, object], question: object, answer: object) -> Iterator[tuple[object, object]]:
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(h, list) and len(h) == 2 for h in history):
        raise BrokenRecord(f"'history' is {short(history)}; it is a list of [question, answer]", "no-conversation")
    yield from ((q, a) for q, a in history)
    more = record.get("input")
    if more not in (None, "") and isinstance(question, str):
        if not isinstance(more, str):
            raise BrokenRecord(f"'input' is {short(more)}; it must be text", "no-text")
        question = f"{question}\n{more}" if question else more
    yield question, answer


def _with_system(turns: Sequence[object], record: Mapping[str, object]) -> Sequence[object]:
    """The turns after the system message from its own key, if there is one.

    Raises:
        BrokenRecord: it is not text, or there is another system message.
    """
    given = {k: record[k] for k in SYSTEMS if k in record and record[k] != ""}
    if not given:
        return turns
    key, text = next(iter(given.items()))
    if any(not isinstance(value, str) for value in given.values()):
        raise BrokenRecord(f"{key!r} is {short(text)}; a system message is text", "no-text")
    first = turns[0] if turns else None
    own = first.get("value") if isinstance(first, dict) and first.get("from") == "system" else None
    if any(value != text for value in given.values()) or own not in (None, text):
        raise BrokenRecord(
            f"{' and '.join(given)} and its turns have different system messages; keep one", "turn-order"
        )
    return turns if own is not None else [{"from": "system", "value": text}, *turns]


def rounds(pairs: Iterable[tuple[object, object]]) -> Turns:
    """Questions and answers as LLaVA's turns."""
    return [{"from": who, "value": value} for both in pairs for who, value in zip(("human", "gpt"), both, strict=True)]


def caption(text: object, pictures: int = 1) -> Turns:
    """A caption's conversation: the human turn has the picture and no text."""
    return rounds([(TAG * pictures, text)])


def with_tags(said: object, pictures: int) -> None:
    """Put all pictures before the first question, unless the questions have tags already."""
    if not isinstance(said, list):
        return
    turns = [t for t in said if isinstance(t, dict)]
    asked = [t for t in turns if t.get("from") == "human" and isinstance(t.get("value"), str)]
    if pictures and asked and not any(TAG in t["value"] for t in asked):
        at = next(i for i, t in enumerate(said) if t is asked[0])
        said[at] = {**asked[0], "value": f"{TAG * pictures}\n{asked[0]['value']}"}


def _rounds(texts: object) -> Turns:
    if not isinstance(texts, list):
        raise BrokenRecord(f"'texts' is {short(texts)}; it is a list of user and assistant", "no-conversation")
    return rounds((t.get("user"), t.get("assistant")) if isinstance(t, dict) else (None, None) for t in texts)


def _some(keys: Iterable[str]) -> str:
    names = [short(k, 40) for k in keys]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none"
