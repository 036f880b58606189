"""`remora …`: the verbs. Parsing is here and imports nothing heavy; each verb's work is in remora.commands."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from remora import __version__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remora", description="Compose, train, search, measure and serve small multimodal models on Ray."
    )
    parser.add_argument("--version", action="version", version=f"remora {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=help, description=help)
        p.add_argument("--runs", type=Path, metavar="DIR", help="run folder (default: REMORA_RUNS or ~/remora)")
        p.add_argument("--debug", action="store_true", help="print the trace of an error (or REMORA_DEBUG=1)")
        return p

    def tracked(p: argparse.ArgumentParser) -> None:
        p.add_argument("--tracking-uri", help="MLflow server (default: MLFLOW_TRACKING_URI, or <run folder>/mlflow.db)")

    def on_cluster(p: argparse.ArgumentParser, local: bool = False) -> None:
        where = p.add_mutually_exclusive_group()
        address = "Ray cluster to use (default: RAY_ADDRESS, or one of its own on this machine)"
        where.add_argument("--address", help=address)
        if local:
            where.add_argument("--local", action="store_true", help="without Ray, on this machine")
        tracked(p)

    a_model = "a variant's name, the folder of a bundle, or name@alias of the registry"

    demo = verb("demo", "the whole story in minutes on two CPU cores: search, train, measure, register, serve, ask")
    on_cluster(demo)
    demo.add_argument("--keep", action="store_true", help="leave the endpoint up")
    demo.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    demo.add_argument("--port", type=int, help="port of the endpoint (default: 8000, or a free one)")

    train = verb("train", "train and measure one variant")
    train.add_argument("spec", type=Path, help="a variant, e.g. jobs/demo-base.yaml")
    search = verb("search", "train and measure every variant of a space, register the best")
    search.add_argument("spec", type=Path, help="a space, e.g. tune/demo.yaml")
    for p in (train, search):
        on_cluster(p, local=p is train)
        p.add_argument("--plain", action="store_true", help="lines instead of a live table, in this process")

    score = verb("score", "the figures of an answer file by a benchmark's published rules; needs no model")
    score.add_argument("benchmark", help="vqav2, gqa, scienceqa, textvqa, pope, mme, mmbench, seed, mmmu, …")
    score.add_argument("--data", type=Path, required=True, metavar="PATH", help="its distributed file or folder")
    score.add_argument("--answers", type=Path, required=True, metavar="FILE", help="LLaVA's or the official format")
    score.add_argument("--questions", type=Path, metavar="FILE", help="LLaVA's question file")

    evaluate = verb("evaluate", "a model's figures on benchmarks, by the papers' rules")
    evaluate.add_argument("model", help=a_model)
    evaluate.add_argument(
        "--benchmarks", nargs="+", required=True, metavar="NAME", help="names with commas or spaces, YAMLs, or all"
    )
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="their folders (default: <run folder>/data/eval)")
    evaluate.add_argument("--workers", type=int, default=1, metavar="N", help="processes that answer (default: 1)")
    evaluate.add_argument("--gpus-per-worker", type=float, default=0, metavar="N", help="GPUs of each (default: 0)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="ask only the first N questions of each")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="write the reports there, too")
    on_cluster(evaluate, local=True)
    for p in (score, evaluate):
        p.add_argument("--protocol", metavar="P", help="way of scoring (default: the papers')")
        p.add_argument("--judge-model", metavar="NAME", help="the judge (default: REMORA_JUDGE_MODEL, or the papers')")
        p.add_argument("--json", action="store_true", help="print everything as JSON")
    compare = verb("compare", "two models on the same questions: which differences are real")
    for side in ("a", "b"):
        compare.add_argument(side, help="a measured model, a report's file or a folder of reports")
    compare.add_argument("--all", action="store_true", help="every figure, not only the headline ones")
    compare.add_argument("--json", action="store_true", help="print the differences as JSON")
    tracked(compare)

    register = verb("register", "a model as a version of the registry, under an alias that `remora serve` follows")
    register.add_argument("model", help=a_model)
    register.add_argument("--as", dest="name", default="remora", metavar="NAME", help="its name (default: remora)")
    register.add_argument("--alias", default="champion", metavar="ALIAS", help="moved to it (default: champion)")
    tracked(register)
    serve = verb("serve", "serve a model: OpenAI's chat completions with images")
    serve.add_argument("model", nargs="?", default="remora@champion", help=f"{a_model} (default: remora@champion)")
    on_cluster(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")

    plan = verb("plan", "what a space or a variant needs: which stage runs are there, which will be trained")
    plan.add_argument("spec", type=Path)
    render = verb("render", "a space or a variant with everything resolved")
    render.add_argument("spec", type=Path)
    catalog = verb("catalog", "what is known: vision, llm, connectors, templates, datasets, benchmarks, recipes")
    catalog.add_argument(
        "kind", nargs="?", help="one of these, or `check`: which encoder x connector x llm make a model"
    )
    catalog.add_argument("name", nargs="?")
    catalog.add_argument("--json", type=Path, metavar="FILE", help="with `check`: write every composition to FILE")
    export = verb("export", "a trained variant in the stock llava layout, or whole in our own")
    export.add_argument("model", help=a_model)
    tracked(export)
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    importing = verb("import", "a downloaded checkpoint (llava-hf, TinyLLaVA, Bunny, LLaVA) as a bundle")
    importing.add_argument("folder", type=Path, help="the folder of the checkpoint")
    importing.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    for part in ("vision", "llm", "template"):
        importing.add_argument(f"--{part}", metavar="NAME", help="its catalog name (default: found by architecture)")
    importing.add_argument("--base", metavar="DIR", help="what its LoRA adapters were made for (default: as they say)")
    average = verb("average", "the weighted average of variants with the same parts, as Bunny makes them")
    average.add_argument("models", nargs="+", metavar="MODEL", help=f"each {a_model}")
    tracked(average)
    average.add_argument("--weights", type=float, nargs="+", required=True, help="one each, together 1: 0.3 0.7")
    average.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    _data_verbs(verb("data", "make, check, index, show, convert and condense datasets"), on_cluster)
    kept = verb("runs", "the run folder: what killed commands left in it")
    kept.add_argument("what", choices=["gc"], help="gc: delete what nobody uses any more")
    kept.add_argument("--dry-run", action="store_true", help="name it, delete nothing")
    tracked(verb("sync", "bring MLflow up to date with the run folder, as every command does while it works"))
    mlflow = verb("ui", "open MLflow's pages on the run folder")
    mlflow.add_argument("--port", type=int, default=5000)
    return parser


def _data_verbs(data: argparse.ArgumentParser, on_cluster: Callable[[argparse.ArgumentParser], None]) -> None:
    """`remora data …`."""
    verbs = data.add_subparsers(dest="what", required=True, metavar="WHAT")

    def verb(name: str, help: str, target: str | None = None) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=help, description=help)
        # Given behind the second verb too; SUPPRESS leaves what the first one was given.
        p.add_argument("--runs", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="run folder")
        p.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="print the trace of an error")
        if target:
            p.add_argument("target", help=target)
            p.add_argument("--images", metavar="DIR", help="the folder of its pictures (default: its own)")
        return p

    a_dataset = "a dataset's name, file, folder or URL, or a variant's YAML"
    demo = verb("demo", "make the data of `remora demo`")
    demo.add_argument("--seed", type=int, default=0, help="of the split into seen and unseen concepts (default: 0)")
    check = verb("check", "read every record and decode every picture, and say what is wrong", a_dataset)
    check.add_argument("--json", type=Path, metavar="FILE", help="write what was found to FILE")
    index = verb("index", "build the index that training reads a dataset by", a_dataset)
    on_cluster(index)
    convert = verb("convert", "write a dataset in another format", "a dataset's file, folder or URL")
    convert.add_argument("out", help="new: .json, .jsonl, .parquet, .csv, .tsv, .tar, name-{00000..}.tar, or a folder")
    convert.add_argument("--shard-size", type=int, default=256, metavar="MB", help="of a tar (default: 256)")
    condense = verb("condense", "choose the part of a dataset that is worth training on")
    condense.add_argument("target", metavar="SPEC", help="a condensation, e.g. jobs/condense.yaml")
    condense.add_argument("--out", type=Path, metavar="DIR", help="its folder (default: <run folder>/condensed/NAME)")
    on_cluster(condense)
    show = verb("show", "what a stage reads: tokens, what is supervised, pictures", a_dataset)
    show.add_argument("-n", dest="samples", type=int, default=3, metavar="N", help="samples a stage (default: 3)")
    show.add_argument("--from", dest="first", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    show.add_argument("--seed", type=int, help="of another order")
    show.add_argument("--stage", metavar="NAME", help="only this stage of the variant")
    show.add_argument("--html", type=Path, metavar="FILE", help="write a page to FILE")
    show.add_argument("--tokens", action="store_true", help="print every token with its id")
    for part, what in (("template", "prompt template"), ("llm", "tokenizer"), ("vision", "encoder")):
        show.add_argument(f"--{part}", metavar="NAME", help=f"of a dataset: the {what} to render it with")


MODULES = {
    "demo": "demo",
    "train": "run",
    "search": "run",
    "score": "score",
    "evaluate": "evaluate",
    "compare": "compare",
    "serve": "serve",
    "sync": "sync",
    "plan": "show",
    "render": "show",
    "catalog": "catalog",
    "register": "register",
    "export": "exchange",
    "import": "exchange",
    "average": "exchange",
    "data": "data",
    "ui": "ui",
    "runs": "runs",
}
"""Verb -> the module of remora.commands that has a function of its name."""


def main(argv: list[str] | None = None) -> None:
    """Run one verb; exits with 1 and one line on an error, 130 on Ctrl-C."""
    args = _parser().parse_args(argv)
    if sys.stdout is None:  # closed by the shell (>&-)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe shows each line when it is written, as a terminal does
    if args.debug:
        os.environ["REMORA_DEBUG"] = "1"  # for the processes that it starts, too
    args.runs = Path(args.runs or os.environ.get("REMORA_RUNS") or Path.home() / "remora").expanduser().absolute()
    # A polite kill ends as Ctrl-C does: whatever was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    function = {"import": "import_"}.get(args.verb, args.verb)  # `import` is Python's own word
    try:
        getattr(importlib.import_module(f"remora.commands.{MODULES[args.verb]}"), function)(args)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as e:  # noqa: BLE001 (whatever it is, a person reads it)
        from remora.commands.edge import told

        try:
            sys.stdout.flush()
        except OSError:  # what is left in it cannot be written: Python would complain of that again on its way out
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(told(e, sys.argv[1:] if argv is None else argv, args.runs))


if __name__ == "__main__":
    main()
