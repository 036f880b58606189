"""Requests: what is accepted, what is refused, and with which messages. No Ray, no HTTP."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from remora.errors import SpecError
from remora.inference import Request
from remora.serving.args import EndpointArgs, Limits
from remora.serving.client import curl_command
from remora.serving.completion import DEFAULT_TOKENS, engine_requests
from remora.serving.engines.protocol import VersionedRequest
from remora.serving.openai_api import (
    IGNORED,
    NEUTRAL,
    ChatRequest,
    Refusal,
    holds_more,
    read_request,
)
from support.serving_fake import CHAT, FakeAnswerer, call, data_url, facts_of

SERVED = ("remora", "share-Fake", "champion")
HI = [{"role": "user", "content": "hi"}]


def read(**body: Any) -> ChatRequest:
    return read_request(json.dumps({"messages": HI} | body).encode(), SERVED)


def refused(body: bytes | None = None, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_request(body, SERVED) if body is not None else read(**fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value


def test_nulls_and_fields_that_say_nothing_about_the_answer_are_taken() -> None:
    request = read(temperature=None, max_tokens=None, n=None, stream=False, user="me", logit_bias={}, tools=None)
    assert (request.temperature, request.tokens) == (None, None)
    read(metadata={"a": "b"}, store=True, service_tier="auto", stream_options={"include_usage": True}, seed=None)


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_field_that_is_not_built_is_refused_unless_it_asks_for_nothing(key: str) -> None:
    for value in NEUTRAL[key]:
        assert read(**{key: value})
    assert read(**{key: None})
    error = refused(**{key: "x"})
    assert (error.status, error.code, error.param) == (400, "unsupported", key)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"functions": [{"name": "f"}]},
        {"modalities": ["text", "audio"]},
        {"min_p": 0.1},
        {"repetition_penalty": 1.2},
    ],
)
def test_what_would_change_the_answer_is_never_ignored(fields: dict[str, Any]) -> None:
    error = refused(**fields)
    assert (error.status, error.code, error.param) == (400, "unsupported", next(iter(fields)))


def test_tools_that_may_not_be_called_change_nothing() -> None:
    read(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none")
    read(functions=[{"name": "f"}], function_call="none")
    assert refused(functions=[{"name": "f"}], tool_choice="none").param == "functions"


def test_a_field_that_nobody_knows_is_refused_by_name() -> None:
    error = refused(top_pp=0.5)
    assert (error.status, error.code, error.param) == (400, "unknown_parameter", "top_pp")


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
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": 9}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 5}, "top_p"),
        ({"top_p": "x"}, "top_p"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"stop": 3}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x" * 300]}, "stop"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"seed": 2**70}, "seed"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"stream": "maybe"}, "stream"),
        ({"stream_options": {"include_usage": 7}}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
    ],
)
def test_a_refusal_names_the_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (400, param)
    assert param in str(error)


def test_every_field_of_openais_client_is_read_or_refused_by_name() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    fields = {
        name for base in CompletionCreateParamsNonStreaming.__mro__ for name in getattr(base, "__annotations__", {})
    }
    fields |= set(CompletionCreateParamsNonStreaming.__annotations__)
    assert {"messages", "seed", "moderation", "prompt_cache_options"} <= fields
    assert fields <= ChatRequest.model_fields.keys() | NEUTRAL.keys() | IGNORED


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: not JSON in UTF-8, from line 1, column 0 on"),
        (b'{"messages":\n nope}', "body: not JSON in UTF-8, from line 2, column 3 on"),
        (b'{"messages": [1], "n": "x"}', "n: must be a whole number (found 'x')"),
        (b'{"messages": [1], "temperature": 9}', "temperature: must be 2 or less (found 9)"),
        (b'{"messages": [1], "stop": [""]}', "stop: a stop text has 1 to 256 characters"),
        (b"{}", "messages: is missing"),
    ],
)
def test_refusals_are_in_our_own_words(body: bytes, message: str) -> None:
    """What libraries say is theirs: it has shown paths and addresses, and changes with any release."""
    assert str(refused(body)) == message


def test_a_refusal_repeats_little_of_what_was_sent() -> None:
    for fields in ({"x" * 2**20: 1}, {"model": "x" * 2**20}, {"stop": {"x" * 2**20: "y" * 2**20}}):
        assert len(json.dumps(refused(**fields).body())) < 1000


@pytest.mark.parametrize("body", [b"", b"[1", b"null", b"[" * 100_000, b'{"messages":"\\ud800"}', b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).status == 400


FULL = 2**17
"""Values that a body may have."""


@pytest.mark.parametrize(
    "many",
    [b'{"role":"user","content":""}', b"0", b"[]", b"{}", b"[[[[[[]]]]]]", b'{"":0}', b'""', b'"\\""', b'"\\\\"'],
)
def test_what_holds_too_many_values_is_refused_before_it_is_parsed(many: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr("remora.serving.openai_api.from_json", lambda *_, **__: pytest.fail("parsed"))
    for inside in (b",".join([many] * FULL), b'"",' + b'""' * (3 * FULL) + b",0" * FULL):
        error = refused(b'{"messages":[' + inside + b"]}")
        assert (error.status, error.code) == (400, "too_many")


def test_texts_may_hold_any_number_of_commas_and_brackets() -> None:
    text = '[{,"\\' * FULL
    assert read(messages=[{"role": "user", "content": text}]).messages[0]["content"] == text


def values(found: Any) -> int:
    """What `holds_more` counts, of JSON that is parsed: containers, and commas between what they hold."""
    if not isinstance(found, dict | list):
        return 0
    inside = list(found.values()) if isinstance(found, dict) else found
    return 1 + max(0, len(inside) - 1) + sum(map(values, inside))


def test_values_are_counted_as_a_parser_does() -> None:
    draw = random.Random(7)
    texts = ('"', "\\", '\\"', '\\\\"', ",", "[{", "\\u0022", "\n", "é\u2028", "")

    def one(depth: int) -> Any:
        kind = draw.randrange(5 if depth else 3)
        if kind < 3:
            return ["".join(draw.choices(texts, k=draw.randrange(5))), 1.5, None][kind]
        inside = [one(depth - 1) for _ in range(draw.randrange(5))]
        return inside if kind == 3 else {one(0) if draw.random() < 0.5 else str(i): v for i, v in enumerate(inside)}

    seen = set()
    for _ in range(500):
        found = json.loads(json.dumps(one(4)))
        body = json.dumps(found, ensure_ascii=draw.random() < 0.5).encode()
        exact = values(found)
        seen.add(exact)
        assert not holds_more(body, exact), body
        assert exact == 0 or holds_more(body, exact - 1), body
    assert len(seen) > 20


def asked(**fields: Any) -> tuple[Request, ...]:
    return engine_requests(read(**fields), Limits(), facts_of(FakeAnswerer()))


def test_lengths() -> None:
    model = FakeAnswerer()
    small = FakeAnswerer()
    small.max_length = 100

    def length(model: FakeAnswerer, **fields: Any) -> int:
        return engine_requests(read(**fields), Limits(), facts_of(model))[0].max_new_tokens

    assert length(model) == DEFAULT_TOKENS
    assert length(small) == 25
    assert length(small, max_tokens=7, max_completion_tokens=9) == 9
    assert length(model, max_tokens=4096) == 4096, "the engine knows what the context has room for"


def test_too_long_is_one_code_in_words_that_clients_know() -> None:
    small = FakeAnswerer()
    small.max_length = 100
    with pytest.raises(Refusal, match=r"[Tt]his model's maximum context length is") as caught:
        engine_requests(read(messages=[{"role": "user", "content": "x" * 10_000}]), Limits(), facts_of(small))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    response = call("POST", CHAT, json={"messages": [{"role": "user", "content": "too long"}]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "maximum context length is 512 tokens. However, your messages" in response.json()["error"]["message"]


def test_settings() -> None:
    bias = {"7": 1.5, "3": -100}
    (how,) = asked(
        temperature=0.5, top_p=0.9, top_k=5, seed=5, stop="a", frequency_penalty=1, presence_penalty=-1, logit_bias=bias
    )
    assert how == VersionedRequest(
        how.conversation, 128, 0.5, 0.9, 5, 5, ("a",), 1.0, -1.0, ((3, -100.0), (7, 1.5)), version="3", streamed=False
    )
    assert asked(ignore_eos=True)[0].ignore_eos and not asked(ignore_eos=False)[0].ignore_eos
    (how,) = asked(seed=1, stop=["c", "e", "a"], top_k=-1, temperature=None)
    assert how == VersionedRequest(how.conversation, 128, seed=1, stop=("c", "e", "a"), version="3", streamed=False)
    assert asked(stream=True)[0].streamed
    with pytest.raises(Refusal, match="this model has tokens 0 to 99; found 100"):
        asked(logit_bias={"100": 1})


def test_seeds() -> None:
    assert asked(seed=5)[0].seed == 5
    assert 0 <= asked(seed=-1)[0].seed < 2**31
    assert asked()[0].seed != asked()[0].seed
    assert [how.seed for how in asked(seed=5, n=3)] == [5, 6, 7]


def test_arguments_are_strict_and_take_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key 'replicas'"):
        EndpointArgs.read({"replicas": 2})
    with pytest.raises(SpecError, match="max_replicas is 1, below min_replicas 2"):
        EndpointArgs.read({"max_replicas": 1})
    with pytest.raises(SpecError, match=r"^endpoint args: canary: share must rise, above 0"):
        EndpointArgs.read({"canary": {"model": "better", "share": [0.5, 0.25]}})
    assert EndpointArgs.read({"min_replicas": "3"}).min_replicas == 3  # `serve run app:build min_replicas=3`
    monkeypatch.setenv("REMORA_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    args = EndpointArgs().resolved()
    assert (args.runs, args.tracking_uri) == (tmp_path, "http://mlflow:5000")
    assert EndpointArgs(runs=Path("/there")).resolved().runs == Path("/there")


def test_a_further_model_may_have_an_engine_and_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REMORA_VLLM_PYTHON", raising=False)
    monkeypatch.chdir("/")
    others: list[dict[str, object]] = [
        {"model": "fast", "engine": "vllm", "weights": "float32", "vllm_python": "venv/bin/python"},
        {"model": "small"},
    ]
    read = EndpointArgs.read({"weights": "int8", "models": others}).resolved()
    assert [(one.engine, one.weights, one.vllm_python) for one in read.each()] == [
        ("builtin", "int8", None),
        ("vllm", "float32", Path("/venv/bin/python")),
        ("builtin", "int8", None),
    ]
    with pytest.raises(SpecError, match=r"models\.0\.engine: must be 'builtin' or 'vllm' \(found 'vlm'\)"):
        EndpointArgs.read({"models": [{"model": "fast", "engine": "vlm"}]})


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


@pytest.mark.slow
def test_importing_serving_is_light() -> None:
    code = """
import sys, remora.serving, remora.serving.args, remora.serving.deploy, remora.serving.client
print([m for m in ("ray", "torch", "fastapi", "mlflow", "transformers") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_the_shipped_configs_are_what_serve_and_the_endpoint_read() -> None:
    code = """
import yaml
from pathlib import Path
from pkgutil import resolve_name
from ray.serve.schema import ServeDeploySchema
from remora.serving.app import application
from remora.serving.args import EndpointArgs
for name in ("local", "production"):
    (app,) = ServeDeploySchema.model_validate(yaml.safe_load(Path(f"serve/{name}.yaml").read_text())).applications
    args = EndpointArgs.read(app.args)
    assert name == "production" or args == EndpointArgs(no_keys=True)
    assert app.name == "remora" and resolve_name(app.import_path) is resolve_name("serve.app:build")
    application(args)
assert args.follow and args.keys == Path("/shared/keys.yaml") and not args.no_keys
"""
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
