"""Convert turns to LLaVA's: ShareGPT's `conversations`, and `messages` of OpenAI, TRL and ms-swift.

A turn is {from, value} or {role, content}; content is text or a list of parts. All become LLaVA's {from, value}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from remora.data.conversation import TAG, short
from remora.errors import BrokenRecord

SPEAKERS = {
    **{"human": "human", "user": "human"},
    **{"gpt": "gpt", "assistant": "gpt"},
    **{"system": "system", "developer": "system"},
}
"""Name of a speaker -> LLaVA's name. Others (tool, function_call, …) stay, and are refused later."""
TEXTS = frozenset({"text", "input_text", "output_text"})
SHOWN = frozenset({"image", "image_url", "input_image"})
"""Type of a part -> text or picture. The longer names are from OpenAI's newer format."""
HELD = ("bytes", "image", "image_url", "url", "path")
"""Keys of a part with its picture, the most specific first."""
_ELSEWHERE = ("source", "data", "base64", "b64_json", "src", "file", "file_id")
"""Keys of a part with its picture in unsupported formats."""
RawTurn = dict[str, object]


class Pool:
    """The pictures that a record names outside its turns, and those in its turns, in reading order."""

    def __init__(self, named: list[object]) -> None:
        self.named = named
        self.shown: list[object] | None = None
        """Pictures of parts; None until a part has one."""
        self.unread: dict[str, None] = {}
        """Keys of parts that are not read, in order."""
        self._next = 0
        self._taken: set[int] = set()

    def show(self, part: dict[str, object], where: str) -> None:
        """Add the picture of a part: its own, the one at its `index`, or the next one that the record names."""
        held = next((k for k in HELD if part.get(k) not in (None, "")), None)
        self.shown = self.shown or []
        if held:
            self.shown.append({"bytes": part["bytes"]} if held == "bytes" else part[held])
            self._pass_by(part, {"type", "index", held})
            return
        if other := next((k for k in _ELSEWHERE if part.get(k)), None):
            raise BrokenRecord(
                f"{where} has its picture in {other!r}, which is not supported; write it in image, url, path or bytes",
                "image-field",
            )
        self._pass_by(part, {"type", "index"})
        number = part.get("index")
        if not isinstance(number, int) or isinstance(number, bool):
            number, self._next = self._next, self._next + 1
        if not 0 <= number < len(self.named):
            raise BrokenRecord(
                f"{where} shows picture {short(number)}, the record names {len(self.named)} pictures",
                "tag-without-image",
            )
        self._taken.add(number)
        self.shown.append(self.named[number])

    def say(self, part: dict[str, object]) -> str:
        """The text of a part."""
        self._pass_by(part, {"type", "index", "text"})
        return str(part["text"])

    def _pass_by(self, part: dict[str, object], read: set[str]) -> None:
        if len(part) > 2 or not part.keys() <= read:
            given = (k for k, v in part.items() if k not in read and v not in (None, "", [], {}))
            self.unread |= dict.fromkeys(f"content.{k}" for k in given)

    def pictures(self) -> list[object]:
        """All pictures of the conversation.

        Raises:
            BrokenRecord: parts use some of the pictures that the record names, but not all.
        """
        if self.shown is None:
            return self.named
        if left := len(self.named) - len(self._taken):
            raise BrokenRecord(
                f"{left} of the {len(self.named)} pictures that it names are shown by no part", "image-without-tag"
            )
        return self.shown


def llava_turns(said: Sequence[object], pool: Pool, name: str) -> list[object]:
    """Turns in LLaVA's format. Anything else stays as it is, so that `conversation.problems` reports it.

    Raises:
        BrokenRecord: a part has an unknown type, or its picture is missing.
    """
    return [_turn(message, pool, f"{name}[{i}]") for i, message in enumerate(said)]


def is_plain(said: object) -> bool:
    """Whether turns are in LLaVA's format already: each has only text from human or gpt."""
    return isinstance(said, list) and all(
        isinstance(turn, dict)
        and len(turn) == 2
        and isinstance(turn.get("value"), str)
        and turn.get("from") in ("human", "gpt")
        for turn in said
    )


def unread_keys(said: Sequence[object], name: str) -> Iterator[str]:
    """Keys of turns that are not read, such as `messages.weight`."""
    for message in said:
        if isinstance(message, dict) and (len(message) > 2 or not message.keys() <= {"from", "value"}):
            yield from (
                f"{name}.{key}"
                for key, value in message.items()
                if key not in ("from", "value", "role", "content") and value not in (None, "", [], {})
            )


def _turn(message: object, pool: Pool, where: str) -> object:
    if not isinstance(message, dict):
        return message
    speaker = message.get("from") if message.get("from") is not None else message.get("role")
    value = message.get("value") if message.get("value") is not None else message.get("content")
    called = SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if len(message) > 2:
        _refuse_two(message, speaker, called, value, where)
    if isinstance(value, list | dict):
        value = _text(value if isinstance(value, list) else [value], called, pool, where)
    if called == message.get("from") and value is message.get("value"):
        return message
    rest = {k: v for k, v in message.items() if k not in ("role", "content", "from", "value")}
    return {"from": called, "value": value, **rest}


def _refuse_two(message: RawTurn, speaker: object, called: object, value: object, where: str) -> None:
    """
    Raises:
        BrokenRecord: `from` and `role`, or `value` and `content`, differ.
    """
    role, content = message.get("role"), message.get("content")
    if role is not None and role != speaker and (not isinstance(role, str) or SPEAKERS.get(role, role) != called):
        raise BrokenRecord(f"{where}: from is {short(speaker)} and role {short(role)}; keep one", "turn-order")
    if content not in (None, "") and content != value:
        raise BrokenRecord(f"{where}: value is {short(value)} and content {short(content)}; keep one", "no-text")


def _text(parts: list[object], speaker: object, pool: Pool, where: str) -> str:
    """The text of parts: a tag for each picture, then the text parts, one per line."""
    texts, tags = [], 0
    for number, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        held: RawTurn = part if isinstance(part, dict) else {}
        kind = held.get("type")
        if kind is None and isinstance(held.get("text"), str):
            kind = "text"
        if kind not in TEXTS | SHOWN:
            raise BrokenRecord(
                f"{where}: part {number} is {short(part if kind is None else kind)}; parts are text, image and "
                "image_url; remove the record, or the part if it is not needed",
                "unknown-part",
            )
        if kind in TEXTS:
            if not isinstance(held.get("text"), str):
                raise BrokenRecord(f"{where}: part {number} is of type text but has no text", "no-text")
            texts.append(pool.say(held))
            continue
        if speaker != "human":
            raise BrokenRecord(
                f"{where}: part {number} is a picture in a turn of {short(speaker)}; only user turns may have pictures",
                "unknown-part",
            )
        pool.show(held, f"{where}: part {number}")
        tags += 1
    said = "\n".join(texts)
    return f"{TAG * tags}\n{said}" if tags and said else TAG * tags + said
