"""Messages: every shape that OpenAI and vLLM take becomes turns; the others are refused by their place."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from remora.inference import FittedPicture, Prompt
from remora.serving.args import Limits
from remora.serving.completion import engine_requests
from remora.serving.messages import read_messages
from remora.serving.openai_api import ChatRequest, Refusal
from support.serving_fake import FakeAnswerer, data_url, facts_of

RED = data_url(Image.new("RGB", (4, 6), (255, 0, 0)))
PICTURE = {"type": "image_url", "image_url": {"url": RED, "detail": "low"}}
WHAT = {"role": "user", "content": "what?"}


def turns(*messages: Any, limits: Limits | None = None) -> list[tuple[str, str, int]]:
    return [(one.role, one.text, len(one.urls)) for one in read_messages(messages, limits or Limits(), 1000)]


def refused(*messages: Any, limits: Limits | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        turns(*messages, limits=limits)
    assert caught.value.status == 400 and "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


@pytest.mark.parametrize(
    "content",
    [
        "what?",
        [{"type": "text", "text": "what?"}],
        ["what?"],
        [{"text": "what?"}],
        [{"type": "input_text", "text": "what?"}],
    ],
)
def test_words_in_every_shape(content: Any) -> None:
    assert turns({"role": "user", "content": content}) == [("user", "what?", 0)]


@pytest.mark.parametrize(
    "part",
    [
        PICTURE,
        {"type": "image_url", "image_url": RED},
        {"image_url": {"url": RED}},
        {"type": "input_image", "image_url": RED, "detail": "auto"},
    ],
)
def test_pictures_in_every_shape(part: Any) -> None:
    assert turns(user(part, {"type": "text", "text": "what?"})) == [("user", "what?", 1)]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_is_the_conversations_first_turn(role: str) -> None:
    assert turns({"role": role, "content": "be brief"}, WHAT) == [("system", "be brief", 0), ("user", "what?", 0)]
    both = turns({"role": "system", "content": "be brief"}, {"role": role, "content": [{"text": "be kind"}]}, WHAT)
    assert both == [("system", "be brief\nbe kind", 0), ("user", "what?", 0)]
    assert turns({"role": role, "content": ""}, WHAT) == [("user", "what?", 0)]
    assert turns({"role": role, "content": "what is a fish?"}) == [("user", "what is a fish?", 0)]
    later = turns(WHAT, {"role": "assistant", "content": "a fish"}, {"role": role, "content": "be brief"}, WHAT)
    assert later == [("user", "what?", 0), ("assistant", "a fish", 0), ("user", "be brief\nwhat?", 0)]


def test_a_round_with_tools() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    found = turns(
        WHAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "it is red"},
        {"role": "user", "content": "so?"},
    )
    assert found == [
        ("user", "what?", 0),
        ("assistant", '{"name": "look", "arguments": "{}"}', 0),
        ("user", "it is red\nso?", 0),
    ]
    assert turns(WHAT, {"role": "tool", "content": "red"}) == [("user", "what?\nred", 0)]
    for role in ("tool", "function"):
        assert turns(WHAT, {"role": role, "name": "look", "content": None}) == [("user", "what?", 0)]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"function_call": {"name": "look", "arguments": "{}"}}, '{"name": "look", "arguments": "{}"}'),
        (
            {"tool_calls": [{"type": "custom", "custom": {"name": "look", "input": "é"}}]},
            '{"name": "look", "input": "é"}',
        ),
        ({"tool_calls": None, "function_call": None, "audio": None, "refusal": "no"}, "no"),
        ({"tool_calls": [3, {}, {"function": 3}], "function_call": "x", "content": "hm"}, "hm"),
    ],
)
def test_calls_of_tools_in_every_form(said: dict[str, Any], text: str) -> None:
    assert turns(WHAT, {"role": "assistant", "content": None} | said, WHAT)[1] == ("assistant", text, 0)


def test_what_clients_add_to_messages_and_parts_changes_nothing() -> None:
    """litellm, LangChain and OpenAI's own: names, hints for caches, and what other models thought."""
    text = {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}, "annotations": []}
    shown = {**PICTURE, "prompt_cache_breakpoint": {"mode": "explicit"}, "uuid": "1", "index": 0}
    asked = {"role": "user", "name": "alice", "content": [text, shown], "id": "m1", "cache_control": {}}
    thought = {"reasoning_content": "hm", "thinking_blocks": [], "provider_specific_fields": {}, "annotations": []}
    answer = {"role": "assistant", "content": "a fish", "name": "bob", "audio": None} | thought
    assert turns(asked, answer, WHAT) == [("user", "what?", 1), ("assistant", "a fish", 0), ("user", "what?", 0)]


def test_turns_alternate_whatever_was_sent() -> None:
    assert turns(WHAT, user(PICTURE), WHAT) == [("user", "what?\nwhat?", 1)]
    greeting = {"role": "assistant", "content": "hello"}
    assert turns(greeting, greeting, WHAT) == [("user", "", 0), ("assistant", "hello\nhello", 0), ("user", "what?", 0)]
    for silent in ({"role": "assistant"}, {"role": "assistant", "content": None}, {"role": "assistant", "content": []}):
        assert turns(WHAT, silent, WHAT) == [("user", "what?", 0), ("assistant", "", 0), ("user", "what?", 0)]
    refusing = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert turns(WHAT, refusing, WHAT)[1] == ("assistant", "no", 0)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[1]"),
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"role": "user", "content": []}, "messages[1].content"),
        ({"role": "system", "content": [PICTURE]}, "messages[1].content"),
        ({"role": "assistant", "content": [PICTURE]}, "messages[1].content"),
        (user({"type": "input_audio"}), "messages[1].content[0].type"),
        (user({}), "messages[1].content[0].type"),
        (user("a", {"type": "text"}), "messages[1].content[1].text"),
        (user(5), "messages[1].content[0]"),
        (user({"type": "image_url", "image_url": {}}), "messages[1].content[0].image_url"),
        (user({"type": "image_url"}), "messages[1].content[0].image_url"),
    ],
)
def test_a_refusal_names_the_place(message: Any, param: str) -> None:
    assert refused(WHAT, message, WHAT).param == param


def test_the_assistant_cannot_be_last() -> None:
    assert refused(WHAT, {"role": "assistant", "content": "a"}).code == "invalid_conversation"


def test_everything_is_counted_before_it_is_read() -> None:
    assert "3 messages; this one has 4" in str(refused(*["?"] * 4, limits=Limits(max_messages=3)))
    assert "5 content parts; this one has 6" in str(refused(*[user(5, 5)] * 3, limits=Limits(max_parts=5)))
    assert refused(*[{"role": "user", "content": "x" * 400}] * 3).code == "context_length_exceeded"
    assert refused(*[{"role": "user", "content": ""}] * 550_000).code == "too_many"


def test_a_request_becomes_a_prompt() -> None:
    request = ChatRequest(
        messages=[
            {"role": "developer", "content": "be brief"},
            user(PICTURE, "what?"),
            {"role": "assistant", "content": "a fish"},
            user("what?", PICTURE, "what? ", PICTURE),
        ]
    )
    found = engine_requests(request, Limits(), facts_of(FakeAnswerer()))[0].conversation
    assert not isinstance(found, Prompt)
    assert [(t.role, t.text, len(t.images)) for t in found] == [
        ("system", "be brief", 0),
        ("user", "what?", 1),
        ("assistant", "a fish", 0),
        ("user", "what?\nwhat?", 2),
    ]
    (shown,) = found[1].images
    assert isinstance(shown, FittedPicture) and shown.image.size == (4, 6)
    with pytest.raises(Refusal, match="a request may have 2 images; this one has 3"):
        engine_requests(request, Limits(max_images=2), facts_of(FakeAnswerer()))
