"""Requests of lmms-eval are answered, and the model reads in them what Remora's own evaluation would have it read.

lmms_eval_requests.jsonl holds request bodies as lmms-eval 0.7.3 sent them with openai 3.52: its own tasks over a red
picture of 6 x 4 pixels (MMMU: and a blue one of 4 x 6), written down by a server that listened in the endpoint's place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.evaluation.benchmarks.prompts import LETTER, SHORT, options
from remora.inference import FittedPicture, Message, Request
from remora.serving.args import EndpointArgs, Limits
from remora.serving.completion import engine_requests
from remora.serving.openai_api import read_request
from support.serving_fake import CHAT, FakeAnswerer, call, facts_of

SENT = {
    sent["name"]: sent["body"]
    for sent in map(json.loads, (Path(__file__).parent / "lmms_eval_requests.jsonl").read_text().splitlines())
}
RED, BLUE = Image.new("RGB", (6, 4), (255, 0, 0)), Image.new("RGB", (4, 6), (0, 0, 255))
POPE = "Is there a red shape in the image?" + SHORT
COLOUR = "Which colour is this?"
ASKED = {
    "pope": (POPE, [RED]),
    "pope_adv": (POPE, [RED]),
    "scienceqa": (f"Context: Look.\n{COLOUR}\n{options(['red', 'blue'])}{LETTER}", [RED]),
    "scienceqa without a picture": (f"Which is a shape?\n{options(['red', 'circle'])}{LETTER}", []),
    "seed": (f"{COLOUR}\n{options(['red', 'blue', 'green', 'black'])}{LETTER}", [RED]),
    "mmbench": (f"{COLOUR} There are several options:\n{options(['red', 'blue'])}\n{LETTER}", [RED]),
    "mmmu": (f"Compare\nwith\n. Which is red?\n{options(['the first', 'the second'])}\n{LETTER}", [RED, BLUE]),
    "pope by --force_simple": (POPE, [RED]),
    "pope by async_openai": (POPE, [RED]),
    "pope sampled": (POPE, [RED]),
    "pope of a model with o1 in its name": (POPE, [RED]),
}
"""What the model must read, in the words of our own benchmarks. The JPEG is left out: its pixels are others."""


def read(name: str) -> tuple[Request, ...]:
    body = SENT[name]
    return engine_requests(
        read_request(json.dumps(body).encode(), (body["model"],)), Limits(), facts_of(FakeAnswerer())
    )


@pytest.mark.parametrize("name", SENT)
def test_a_request_is_answered(name: str) -> None:
    from openai.types.chat import ChatCompletion

    body: dict[str, Any] = SENT[name]
    response = call("POST", CHAT, EndpointArgs(model=body["model"]), json=body)
    assert response.status_code == 200, response.text
    read = ChatCompletion.model_validate(response.json(), strict=True)
    shown = sum(part["type"] == "image_url" for part in body["messages"][0]["content"])
    said = read.choices[0].message.content
    assert said and said.count(" RGB ") == shown
    assert read.usage and (read.usage.prompt_tokens, read.usage.completion_tokens) == (7, 3)


@pytest.mark.parametrize("name", ASKED)
def test_the_model_reads_the_words_behind_the_pictures(name: str) -> None:
    """lmms-eval puts pictures before, between or behind the words; the model has them in front, as it was trained."""
    text, pictures = ASKED[name]
    (turn,) = read(name)[0].conversation
    assert isinstance(turn, Message) and (turn.role, turn.text) == ("user", text)
    assert [one.image for one in turn.images if isinstance(one, FittedPicture)] == pictures


def test_lengths_and_settings() -> None:
    """A length for larger models is no refusal: SEED-Bench's task names none, and lmms-eval then sends 1024."""
    asked = {name: read(name) for name in SENT}
    assert all(len(requests) == 1 for requests in asked.values())
    found = {name: how for name, (how,) in asked.items()}
    sampled = found.pop("pope sampled")
    assert (sampled.max_new_tokens, sampled.temperature, sampled.top_p, sampled.seed) == (16, 0.7, 0.9, 7)
    assert (sampled.frequency_penalty, sampled.presence_penalty) == (0.5, 0.5)
    assert {how.temperature for how in found.values()} == {0.0}
    assert {name for name, how in found.items() if how.max_new_tokens == 1024} == {"seed", "mmbench"}
