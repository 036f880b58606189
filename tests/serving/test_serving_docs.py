"""Commands, settings, limits and codes of docs/serving.md and of the pages that go on from it are those of the code.

Its examples run in test_serving_endpoint.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import yaml
from serving_docs import PAGE, ROOT, commands, examples, table

from remora.cli import main
from remora.commands import attack, canary, chat, evaluate, keys, serve
from remora.commands.canary import rule_settings
from remora.inference.vllm.process import PYTHON
from remora.serving import completion, front, openai_api
from remora.serving.args import EndpointArgs, Limits
from remora.serving.attack.run import ATTACKS, Verdict
from remora.serving.canary.args import CanaryArgs
from remora.serving.deploy import FAST
from remora.serving.openai_api import ChatRequest


def test_its_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | tuple[str, ...], Path | None, bool]] = []
    monkeypatch.setattr(serve, "serve", lambda args: asked.append((args.model, args.keys, args.no_keys)))
    monkeypatch.setattr(evaluate, "evaluate", lambda args: asked.append((args.model, None, False)))
    monkeypatch.setattr(chat, "chat", lambda args: asked.append((args.url, *args.image, False)))
    monkeypatch.setattr(keys, "keys", lambda args: asked.append((args.name, args.file, False)))
    monkeypatch.setattr(attack, "attack", lambda args: asked.append((args.url, None, bool(args.only or args.host))))
    monkeypatch.setattr(canary, "canary", lambda args: asked.append((args.what, None, bool(args.rule))))
    fast: dict[str, str] = {}
    for command in commands():
        match shlex.split(command):
            case ["remora", *rest] | ["echo", _, "|", "remora", *rest]:
                main(rest)
            case ["python", script, config]:
                assert (ROOT / script).is_file() and yaml.safe_load((ROOT / config).read_text())["applications"]
            case [verdict, *_] if verdict in get_args(Verdict):
                assert verdict in ("ok", "none")
            case ["make", target]:
                assert f"\n{target}: " in (ROOT / "Makefile").read_text()
            case ["export", setting] if setting.startswith(PYTHON):
                assert setting == f"{PYTHON}=$PWD/.venv-vllm/bin/python"
            case ["export", setting] if setting.startswith(front.KEYS):
                assert setting == f"{front.KEYS}=/shared/keys.yaml"
            case ["export", *settings] if settings[0].partition("=")[0] in FAST:
                fast |= dict(setting.split("=") for setting in settings)
            case ["export", setting]:
                assert setting == f"{front.VARIABLE}={front.middlewares.__module__}:{front.middlewares.__name__}"
            case ["pip", "install", "guidellm[vision]"] | ["guidellm", "run", *_]:
                pass  # an environment of its own
            case other:
                assert other == ["ray", "start", "--head"]
    assert fast == FAST
    assert asked == [
        (("remora@champion",), None, False),
        (("MODEL",), None, False),
        (("A", "B"), None, False),
        ("alice", Path("keys.yaml"), False),
        (("remora@champion",), Path("keys.yaml"), False),
        (("remora@champion",), None, True),
        ("http://127.0.0.1:8000", Path("picture.png"), False),
        ("http://127.0.0.1:8000", Path("picture.png"), False),
        (("MODEL",), None, False),
        (("remora@champion", "other@champion", "small-variant"), None, False),
        ("MODEL", None, False),
        (("MODEL",), None, False),
        (("remora@champion",), None, False),
        ("http://127.0.0.1:8000", None, False),
        ("http://127.0.0.1:8000", None, True),
        ("https://models.example.org", None, True),
        (("remora@champion",), None, False),
        ("show", None, False),
        ("replay", None, True),
        (("base-Eff-2M-mlp",), None, True),
    ]
    assert {language for language, _ in examples()} == {"sh", "python", "yaml"}
    several, tried = (yaml.safe_load(text) for language, text in examples() if language == "yaml")
    assert [one.model for one in EndpointArgs.read(several["args"]).each()] == [
        "remora",
        "other",
        "third",
        "fourth",
        "fifth",
    ]
    read = EndpointArgs.read(tried).canary
    assert read is not None and read == CanaryArgs(model=read.model), "the defaults"
    replayed = next(command for command in commands() if command.startswith("remora canary replay"))
    assert read.with_rule(rule_settings(tuple(shlex.split(replayed, comments=True)[4:]))).rule != read.rule


def test_its_settings_are_those_of_a_request() -> None:
    named = {name for row in table("| field | |") for name in re.findall(r"`([a-z_]+)(?:\.[a-z_]+)?`", row[0])}
    assert named | {"model", "messages"} == ChatRequest.model_fields.keys()
    refused = PAGE.split("Refused by name")[1].split("Fields that say nothing")[0]
    assert set(re.findall(r"`([a-z_]+)`", refused)) <= openai_api.NEUTRAL.keys() | {"code", "tools"}
    ignored = PAGE.split("Fields that say nothing")[1].split(" are accepted")[0]
    assert set(re.findall(r"`([a-z_]+)`", ignored)) <= openai_api.IGNORED


def test_its_limits_are_the_defaults() -> None:
    told = " ".join(PAGE.split("Limits are arguments")[1].split("\n\n")[0].split())
    limits = Limits()
    for figure in (
        f"{limits.max_body_bytes >> 20} MiB a body and {limits.max_values:,} JSON values",
        f"{limits.max_image_bytes >> 20} MiB and {limits.max_images} pictures",
        f"{limits.max_messages} messages and parts",
    ):
        assert figure in told
    assert limits.max_messages == limits.max_parts
    assert f"{completion.DEFAULT_TOKENS} by default" in PAGE and f"up to {limits.max_answers} answers" in PAGE
    assert f"did not come within {front.BODY_S:g} s" in PAGE
    assert f"`limits.fetch_seconds` ({limits.fetch_seconds:g})" in PAGE


@pytest.mark.parametrize(
    "setting",
    [
        "cors_origins: [https://chat.example.org]",
        "version: 7",
        "no_keys: true",
        'image_hosts: [images.example.org, "*.example.net"]',
    ],
)
def test_its_arguments_are_read(setting: str) -> None:
    assert f"`{setting}`" in PAGE
    found = yaml.safe_load(setting)
    assert EndpointArgs.read(found) != EndpointArgs()


def test_its_codes_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "platform" / "remora" / "serving").glob("*.py"))
    for status, named, _ in table("| status | code | |"):
        assert int(status) in openai_api.TYPES
        for one in re.findall(r"`([a-z_]+)`", named):
            assert f'"{one}"' in code, one


def test_its_attacks_are_those_of_the_code() -> None:
    told = PAGE.split("## Attack it")[1].split("## ")[0]
    assert re.findall(r"(?m)^    (?:ok|none) +([a-z0-9-]+)", told) == [*ATTACKS, "memory"]
    assert f"in {len(ATTACKS)} attacks" in told
