"""From the messages of a request to turns: every form that OpenAI and vLLM accept, counted before it is read.

A template has alternating user and assistant turns, after at most one system message. So consecutive messages of one
side become one turn, a tool's answer belongs to the user, and a later system message joins the words of the turn after
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from remora.serving.args import Limits
from remora.serving.openai_api import Refusal

SIDES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "tool": "user",
    "function": "user",
    "assistant": "assistant",
}
SILENT = ("assistant", "tool", "function")
"""Roles whose content may be null."""
TEXTS = ("text", "input_text", "output_text", "refusal")
PICTURES = ("image_url", "input_image")


@dataclass
class ChatTurn:
    """One turn: its words, and its pictures in reading order: URLs, or files that were fetched."""

    role: Literal["system", "user", "assistant"]
    texts: list[str] = field(default_factory=list)
    urls: list[str | bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(text for text in self.texts if text)


def read_messages(messages: Sequence[object], limits: Limits, characters: int) -> list[ChatTurn]:
    """The turns of a conversation, the last one the user's. They have at most `characters` together.

    Raises:
        Refusal: above the limits, or a message of unknown form; `param` is where, `messages[0].content[1]`.
    """
    if len(messages) > limits.max_messages:
        raise _refuse(f"a request may have {limits.max_messages} messages; this one has {len(messages)}", "too_many")
    parts = sum(len(m["content"]) for m in messages if isinstance(m, dict) and isinstance(m.get("content"), list))
    if parts > limits.max_parts:
        raise _refuse(f"a request may have {limits.max_parts} content parts; this one has {parts}", "too_many")
    said = [_said(message, f"messages[{i}]") for i, message in enumerate(messages)]
    found = sum(len(text) for one in said for text in one.texts)
    if found > characters:  # tokenising 20 MB of text would take seconds
        raise Refusal(
            f"This model's maximum context length is too short for {found} characters; at most {characters} are read",
            code="context_length_exceeded",
            param="messages",
        )
    if messages and said[-1].role == "assistant":
        raise _refuse("messages: the last one is the assistant's; it must be the user's", "invalid_conversation")
    return _in_turns(said)


def shows_pictures(messages: Sequence[object]) -> bool:
    """Whether any part of the messages may be a picture. Nothing is checked."""
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and "image_url" in part for part in parts)


def _in_turns(said: Sequence[ChatTurn]) -> list[ChatTurn]:
    turns: list[ChatTurn] = []
    for one in said:
        role = one.role
        if role == "system" and any(turn.role != "system" for turn in turns):
            role = "user"
        if role == "assistant" and not any(turn.role == "user" for turn in turns):
            turns.append(ChatTurn("user"))  # a greeting: templates begin with the user
        if turns and turns[-1].role == role:
            turns[-1].texts += one.texts
            turns[-1].urls += one.urls
        else:
            turns.append(ChatTurn(role, list(one.texts), list(one.urls)))
    if len(turns) == 1 and turns[0].role == "system":  # only instructions: they are the question
        turns = [ChatTurn("user", turns[0].texts)]
    return [turn for turn in turns if turn.role != "system" or turn.text]


def _said(message: object, where: str) -> ChatTurn:
    if not isinstance(message, dict):
        raise _refuse(f"{where}: expected an object with role and content", "invalid_message", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in SIDES:
        raise _refuse(
            f"{where}.role: expected one of {', '.join(SIDES)}; found {str(role)[:40]!r}",
            "invalid_role",
            f"{where}.role",
        )
    one = ChatTurn(SIDES[role])
    content = message.get("content")
    at = f"{where}.content"
    if isinstance(content, str):
        one.texts.append(content)
    elif isinstance(content, list):
        if not content and role != "assistant":
            raise _refuse(f"{at}: no part in it", "invalid_content", at)
        for i, part in enumerate(content):
            _read_part(part, one, f"{at}[{i}]")
    elif content is not None or role not in SILENT:
        raise _refuse(f"{at}: expected a string or a list of parts", "invalid_content", at)
    if role == "assistant":
        one.texts += _told(message)
    if one.urls and role not in ("user", "tool", "function"):
        raise _refuse(f"{at}: an image in a {role} message; only user messages may", "invalid_content", at)
    return one


def _told(message: dict[str, object]) -> list[str]:
    """An assistant message's other texts: a refusal, and its calls of tools, in any of the three forms."""
    refusal, calls = message.get("refusal"), message.get("tool_calls")
    told = [refusal] if isinstance(refusal, str) else []
    made = [message.get("function_call")]
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict):
            made.append(call.get("custom" if call.get("type") == "custom" else "function"))
    for one in made:
        if isinstance(one, dict):
            keys = ("name", "input") if "input" in one else ("name", "arguments")
            told.append(json.dumps({key: one.get(key) for key in keys}, ensure_ascii=False))
    return told


def _read_part(part: object, one: ChatTurn, where: str) -> None:
    if isinstance(part, str):
        one.texts.append(part)
        return
    if not isinstance(part, dict):
        raise _refuse(f"{where}: expected a string or an object with a type", "invalid_content", where)
    kind = part.get("type") or next((key for key in (*TEXTS, *PICTURES) if key in part), None)
    if kind in TEXTS:
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise _refuse(f"{where}.text: expected a string", "invalid_content", f"{where}.text")
        one.texts.append(text)
    elif kind in PICTURES:
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if not isinstance(url, str | bytes):  # bytes: fetch.py has put a picture there
            at = f"{where}.image_url"
            raise _refuse(f"{at}: expected a URL, or an object with one as url", "invalid_content", at)
        one.urls.append(url)
    else:
        raise _refuse(
            f"{where}.type: {str(kind)[:40]!r} is not supported; text and image_url are", "unsupported", f"{where}.type"
        )


def _refuse(message: str, code: str, param: str = "messages") -> Refusal:
    return Refusal(message, code=code, param=param)
