"""Requests: what is understood, what is refused, and in which words. No Ray, no HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving_fake import FakeAnswerer, data_url

from remora.errors import SpecError
from remora.inference import Answer
from remora.serving.answering import DEFAULT_TOKENS, Job, answer_all, job
from remora.serving.args import EndpointArgs, Limits
from remora.serving.client import curl_command
from remora.serving.protocol import ChatRequest, Refusal, read_request

SERVED = ("remora", "share-Fake", "champion")
HI = [{"role": "user", "content": "hi"}]


def read(**body: Any) -> ChatRequest:
    return read_request(json.dumps({"messages": HI} | body).encode(), SERVED)


def refused(body: bytes | None = None, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_request(body, SERVED) if body is not None else read(**fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_strings_and_parts_are_the_same() -> None:
    assert read().messages == read(messages=user({"type": "text", "text": "hi"})).messages


def test_nulls_and_fields_of_other_servers_are_ignored() -> None:
    request = read(temperature=None, max_tokens=None, n=None, stream=False, user="me", top_k=5, logit_bias={})
    assert (request.temperature, request.tokens) == (None, None)


@pytest.mark.parametrize("name", [None, *SERVED])
def test_every_name_of_the_model_is_served(name: str | None) -> None:
    assert read(model=name).model == name


def test_another_model_is_not_found() -> None:
    error = refused(model="gpt-4o")
    assert error.status == 404
    assert error.body() == {
        "error": {
            "message": "model 'gpt-4o' is not served here; served: remora, share-Fake, champion; see GET /v1/models",
            "type": "NotFoundError",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"seed": 2**70}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": user()}, "messages.0.content"),
        ({"messages": user({"type": "input_audio"})}, "messages.0.content.0"),
        ({"messages": user({"type": "image_url", "image_url": {}})}, "messages.0.content.0.image_url.image_url.url"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, "messages"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (400, param)
    assert param in str(error)


@pytest.mark.parametrize("body", [b"", b"[1", b"null", b"[" * 100_000, b'{"messages":"\\ud800"}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).status == 400


def test_a_request_becomes_turns() -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (4, 6))), "detail": "low"}}
    text = {"type": "text", "text": "what?"}
    messages = [
        {"role": "developer", "content": "be brief"},
        *user(picture, text),
        {"role": "assistant", "content": "a fish"},
        *user(text, picture, text, picture),
    ]
    turns = job(read(messages=messages), Limits(), 512).conversation
    assert [(t.role, t.text, len(t.images)) for t in turns] == [
        ("system", "be brief", 0),
        ("user", "what?", 1),
        ("assistant", "a fish", 0),
        ("user", "what?\nwhat?", 2),
    ]
    assert turns[1].images[0].size == (4, 6)


def test_images_are_the_users_and_counted_over_all_messages() -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (4, 4)))}}
    with pytest.raises(Refusal, match="only user messages may"):
        job(read(messages=[{"role": "system", "content": [picture]}, *HI]), Limits(), 512)
    with pytest.raises(Refusal, match="a request may have 1 images; this one has 2"):
        job(read(messages=[*user(picture), *user(picture)]), Limits(max_images=1), 512)


def test_lengths() -> None:
    assert job(read(), Limits(), 4096).max_new_tokens == DEFAULT_TOKENS
    assert job(read(), Limits(), 100).max_new_tokens == 25
    assert job(read(max_tokens=7, max_completion_tokens=9), Limits(), 100).max_new_tokens == 9
    with pytest.raises(Refusal, match="10000 characters"):
        job(read(messages=[{"role": "user", "content": "x" * 10_000}]), Limits(), 100)


def test_seeds() -> None:
    assert job(read(seed=5), Limits(), 100).seed == 5
    assert 0 <= job(read(seed=-1), Limits(), 100).seed < 2**31
    assert job(read(), Limits(), 100).seed != job(read(), Limits(), 100).seed


def a_job(text: str, tokens: int = 8, temperature: float = 0.0, seed: int = 0) -> Job:
    request = read(messages=[{"role": "user", "content": text}], max_tokens=tokens, temperature=temperature, seed=seed)
    return job(request, Limits(), 512)


def test_greedy_jobs_share_a_batch_and_sampled_ones_do_not() -> None:
    model = FakeAnswerer()
    jobs = [a_job("a"), a_job("b", temperature=0.5, seed=3), a_job("c"), a_job("d", tokens=9), a_job("e", 8, 0.5, 3)]
    answers = answer_all(model, jobs)  # type: ignore[arg-type]
    assert [a.text.split(" | ")[2] for a in answers if isinstance(a, Answer)] == ["a", "b", "c", "d", "e"]
    assert sorted(model.calls) == [(1, 8, 0.5, 3), (1, 8, 0.5, 3), (1, 9, 0.0, 0), (2, 8, 0.0, 0)]


def test_a_limit_above_the_context_is_what_the_context_has_room_for() -> None:
    model = FakeAnswerer()
    answer_all(model, [a_job("a", tokens=4096), a_job("b", tokens=506)])  # type: ignore[arg-type]
    assert model.calls == [(2, 505, 0.0, 0)]


def test_one_that_does_not_fit_does_not_spoil_its_batch() -> None:
    answers = answer_all(FakeAnswerer(), [a_job("a"), a_job("too long"), a_job("c")])  # type: ignore[arg-type]
    assert [type(a) for a in answers] == [Answer, Refusal, Answer]
    assert isinstance(answers[1], Refusal)
    assert answers[1].status == 400 and str(answers[1]) == "the prompt is too long; shorten it"


def test_arguments_are_strict_and_take_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'replicas'"):
        EndpointArgs.read({"replicas": 2})
    with pytest.raises(SpecError, match="max_replicas is 1, below min_replicas 2"):
        EndpointArgs.read({"max_replicas": 1})
    assert EndpointArgs.read({"min_replicas": "3"}).min_replicas == 3  # `serve run app:build min_replicas=3`
    monkeypatch.setenv("REMORA_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    args = EndpointArgs().resolved()
    assert (args.runs, args.tracking_uri) == (tmp_path, "http://mlflow:5000")
    assert EndpointArgs(runs=Path("/there")).resolved().runs == Path("/there")


def test_curl_keeps_every_character(tmp_path: Path) -> None:
    """The command's own words, with curl replaced by cat: what a shell makes of the here-document."""
    picture = tmp_path / "it's $HOME.png"
    Image.new("RGB", (300, 300)).save(picture)
    question = 'What\'s "this", `id` $HOME $(id) \\n \\ \n é?'
    command = curl_command("http://127.0.0.1:8000", picture, question)
    assert command.startswith("curl -sS http://127.0.0.1:8000/v1/chat/completions ")
    shell = "curl() { cat; }\n" + command
    sent = json.loads(subprocess.run(["bash", "-c", shell], capture_output=True, check=True).stdout)
    image, text = sent["messages"][0]["content"]
    assert text["text"] == question
    assert image["image_url"]["url"] == data_url(Image.new("RGB", (300, 300)))


def test_importing_serving_is_light() -> None:
    code = """
import sys, remora.serving, remora.serving.args, remora.serving.deploy, remora.serving.client
print([m for m in ("ray", "torch", "fastapi", "mlflow", "transformers") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_shipped_config_is_what_serve_and_the_endpoint_read() -> None:
    code = """
import yaml
from pathlib import Path
from ray._common.utils import import_attr
from ray.serve.schema import ServeDeploySchema
from remora.serving.args import EndpointArgs
(app,) = ServeDeploySchema.model_validate(yaml.safe_load(Path("serve/local.yaml").read_text())).applications
assert EndpointArgs.read(app.args) == EndpointArgs()
assert app.name == "remora" and import_attr(app.import_path) is import_attr("serve.app:build")
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
