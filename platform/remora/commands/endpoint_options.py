"""The options of the verbs that serve a model and ask it; options.py has those of the others."""

# ruff: noqa: RUF009 (`option` and `argument` are dataclasses.field)

from dataclasses import dataclass
from pathlib import Path

from remora.commands.declaring import REQUIRED, argument, option
from remora.commands.options import A_MODEL, Options, cluster_address, tracking_server, weights_of_the_model


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """serve a model: OpenAI's chat completions with images"""

    model: tuple[str, ...] = argument(
        f"{A_MODEL}; several: requests choose one by its name (default: remora@champion)", ("remora@champion",)
    )
    address: str | None = cluster_address()
    tracking_uri: str | None = tracking_server()
    pin: bool = option("stay with the version that name@alias is now; else it follows the alias", False)
    host: str = option("address to listen on (default: 127.0.0.1)", "127.0.0.1")
    port: int = option("port to listen on (default: 8000)", 8000)
    keys: Path | None = option("file of keys, from `remora keys add` (default: one new key)", metavar="FILE")
    no_keys: bool = option("answer every program on this machine; with a host of this machine only", False)
    trace: bool = option("a trace of each answer in MLflow, without texts and pictures", False)
    weights: str = weights_of_the_model()
    engine: str = option(
        "what runs the language model: builtin | vllm (default: builtin)", "builtin", choices=["builtin", "vllm"]
    )
    canary: str | None = option(f"a candidate beside the first one: {A_MODEL}", metavar="MODEL")
    shadow: float = option("canary: share of the requests that both versions answer (default: 0.2)", 0.2, metavar="P")
    share: str = option(
        "canary: shares of the clients that get its answers, in steps (default: 0.05,0.25,0.5)",
        "0.05,0.25,0.5",
        metavar="P,P,…",
    )
    rule: tuple[str, ...] = option("canary: settings of its rule: alpha=0.01", (), metavar="NAME=VALUE")
    no_promote: bool = option("canary: only tell the verdict", False)


@dataclass(frozen=True, kw_only=True)
class CanaryOptions(Options):
    """an endpoint's last canary: show it, or replay its journal under another rule"""

    what: str = argument("show | replay", choices=["show", "replay"])
    endpoint: str | None = argument("the endpoint's model name (default: the only one)", None)
    rule: tuple[str, ...] = option("replay: settings of the rule to change: alpha=0.01", (), metavar="NAME=VALUE")
    json: bool = option("print it as JSON", False)


@dataclass(frozen=True, kw_only=True)
class KeysOptions(Options):
    """keys of the endpoint: add one to a file and print it once, remove one, list their names"""

    what: str = argument("add | remove | ls", choices=["add", "remove", "ls"])
    name: str | None = argument("whose key", None)
    file: Path = option("the file: YAML or JSON", REQUIRED, metavar="FILE")
    requests_per_minute: int | None = option("add: limit (default: none)", metavar="N")
    concurrent: int | None = option("add: limit of requests in work at a time (default: none)", metavar="N")
    json: bool = option("ls: print names and limits as JSON", False)


@dataclass(frozen=True, kw_only=True)
class ChatOptions(Options):
    """ask an endpoint in the terminal, with pictures (/image PATH), or each line of a pipe; its key is REMORA_KEY"""

    url: str = argument("the endpoint (default: http://127.0.0.1:8000)", "http://127.0.0.1:8000")
    image: tuple[Path, ...] = option("pictures of the first question", (), metavar="FILE")
    system: str | None = option("a system message", metavar="TEXT")
    model: str | None = option("one of its names, if it has several models", metavar="NAME")
    max_tokens: int | None = option("length of an answer at most (default: the endpoint's)", metavar="N")
    temperature: float | None = option("above 0: sample (default: 0)", metavar="T")


@dataclass(frozen=True, kw_only=True)
class AttackOptions(Options):
    """a red team against an endpoint that you operate, a verdict a row, in two minutes; its key is REMORA_KEY"""

    url: str = argument("the endpoint (default: http://127.0.0.1:8000)", "http://127.0.0.1:8000")
    only: tuple[str, ...] = option("attacks by name (default: all)", (), metavar="NAME")
    host: str | None = option("the endpoint's host again, if it is not this machine", metavar="HOST")
    seconds: float = option("the time of one attack, in seconds (default: 12)", 12.0, metavar="S")
    json: bool = option("print everything as JSON", False)
