"""`remora …`: the verbs. This module only parses and imports nothing heavy; remora.commands does each verb's work."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import NoReturn

from remora import __version__
from remora.commands import (
    answers_options,
    data_options,
    endpoint_options,
    operate_options,
    plan_options,
    setup_options,
)
from remora.commands import options as told_by
from remora.commands.examples import EXAMPLES
from remora.commands.options import Options, flag_of, kind_of
from remora.errors import nearest
from remora.extras import needs


@dataclass(frozen=True)
class Verb:
    """A verb's options, and the function of remora.commands that takes them: `module.function`."""

    options: type[Options]
    function: str
    extra: str = "model"
    """The extra of pyproject.toml that has all it may need (extras.py)."""
    first: tuple[str, ...] = ()
    """Packages without which it begins nothing."""


VERBS: dict[str, Verb | dict[str, Verb]] = {
    "demo": Verb(told_by.DemoOptions, "demo.demo", "demo", ("deepspeed", "ray")),
    "train": Verb(told_by.TrainOptions, "run.train", "train", ("deepspeed",)),
    "search": Verb(told_by.SearchOptions, "run.search", "train", ("deepspeed", "ray")),
    "searches": Verb(told_by.SearchesOptions, "searches.searches"),
    "report": Verb(told_by.ReportOptions, "report.report"),
    "score": Verb(told_by.ScoreOptions, "score.score"),
    "evaluate": Verb(told_by.EvaluateOptions, "evaluate.evaluate", first=("torch",)),
    "answers": Verb(answers_options.AnswersOptions, "answers.answers"),
    "compare": Verb(told_by.CompareOptions, "compare.compare"),
    "register": Verb(told_by.RegisterOptions, "register.register", "track", ("mlflow",)),
    "promote": Verb(told_by.PromoteOptions, "promote.promote", "track", ("mlflow",)),
    "serve": Verb(endpoint_options.ServeOptions, "serve.serve", "serve", ("ray", "uvicorn")),
    "canary": Verb(endpoint_options.CanaryOptions, "canary.canary", first=("scipy",)),
    "chat": Verb(endpoint_options.ChatOptions, "chat.chat"),
    "keys": Verb(endpoint_options.KeysOptions, "keys.keys"),
    "attack": Verb(endpoint_options.AttackOptions, "attack.attack"),
    "plan": Verb(plan_options.PlanOptions, "show.plan"),
    "explain": Verb(told_by.ExplainOptions, "explain.explained"),
    "render": Verb(plan_options.RenderOptions, "show.render"),
    "init": Verb(setup_options.InitOptions, "init.init"),
    "import-config": Verb(setup_options.ImportConfigOptions, "import_config.import_config"),
    "completion": Verb(setup_options.CompletionOptions, "completion.completion"),
    "schema": Verb(setup_options.SchemaOptions, "schema.schema"),
    "catalog": Verb(told_by.CatalogOptions, "catalog.catalog"),
    "export": Verb(told_by.ExportOptions, "exchange.export", first=("torch",)),
    "import": Verb(told_by.ImportOptions, "exchange.import_", first=("torch",)),  # `import` is Python's own word
    "average": Verb(told_by.AverageOptions, "exchange.average", first=("torch",)),
    "data": {
        "demo": Verb(data_options.DataDemoOptions, "data.demo"),
        "check": Verb(data_options.DataCheckOptions, "data.check"),
        "index": Verb(data_options.DataIndexOptions, "data.index"),
        "convert": Verb(data_options.DataConvertOptions, "data.convert"),
        "condense": Verb(data_options.DataCondenseOptions, "data.condense", "train", ("torch",)),
        "show": Verb(data_options.DataShowOptions, "data.show"),
    },
    "runs": Verb(operate_options.RunsOptions, "runs.runs"),
    "logs": Verb(operate_options.LogsOptions, "at_work.logs"),
    "stop": Verb(operate_options.StopOptions, "at_work.stop"),
    "resume": Verb(operate_options.ResumeOptions, "at_work.resume", "train"),
    "doctor": Verb(operate_options.DoctorOptions, "doctor.doctor"),
    "submit": Verb(operate_options.SubmitOptions, "submit.submit", "train"),
    "sync": Verb(told_by.SyncOptions, "sync.sync", "track", ("mlflow",)),
    "ui": Verb(told_by.UiOptions, "ui.ui"),
    "docs": Verb(told_by.DocsOptions, "docs.docs"),
}
"""By name; `data` has subcommands."""


def verbs() -> Iterator[tuple[str, Verb]]:
    """Every verb by the words that call it, `train` or `data check`, in the order of `remora --help`."""
    for name, verb in VERBS.items():
        if isinstance(verb, Verb):
            yield name, verb
        else:
            yield from ((f"{name} {inner}", below) for inner, below in verb.items())


class _Help(argparse.HelpFormatter):
    """An example's command stays on one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example: ") else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Its errors name what was probably meant."""

    def error(self, message: str) -> NoReturn:
        if said := re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message):
            message += nearest(said[1], re.findall(r"[\w.-]+", said[2]))
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    parser = _Parser(
        prog="remora", description="Compose, train, search, measure and serve small multimodal models on Ray."
    )
    parser.add_argument("--version", action="version", version=f"remora {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in VERBS.items():
        if isinstance(verb, Verb):
            _add(verbs, name, verb, name)
            continue
        help = "make, check, index, show, convert and condense datasets"
        group = verbs.add_parser(name, help=help, description=help)
        _fill(group, Options)
        within = group.add_subparsers(required=True, metavar="WHAT")
        for inner, verb_of_data in verb.items():
            brief = {"runs": "run folder", "debug": "print the trace of an error"}
            _add(within, inner, verb_of_data, f"{name} {inner}", brief)
    return parser


def _add(
    verbs: argparse._SubParsersAction[_Parser],
    name: str,
    verb: Verb,
    words: str,
    help: dict[str, str] | None = None,
) -> None:
    about = verb.options.__doc__
    example = f"example: {EXAMPLES[words]}" if words in EXAMPLES else None
    parser = verbs.add_parser(name, help=about, description=about, epilog=example, formatter_class=_Help)
    parser.set_defaults(verb=verb)
    _fill(parser, verb.options, help or {})


def _fill(parser: argparse.ArgumentParser, options: type[Options], help: dict[str, str] | None = None) -> None:
    """Add an argument for each field. Omitted ones stay out of the namespace: defaults are the dataclass's own."""
    either = None
    for f in fields(options):
        kind, several = kind_of(f.type)
        parsing = {"default": argparse.SUPPRESS, **f.metadata["parsing"]}
        if f.name in (help or {}):
            parsing["help"] = (help or {})[f.name]
        if kind is bool:
            parsing["action"] = "store_true"
        else:
            parsing |= {"type": kind, **({"nargs": "+"} if several and "action" not in parsing else {})}
        required = f.default is MISSING and f.default_factory is MISSING
        if not f.metadata["flags"]:
            if not required:
                parsing |= {"nargs": "*" if several else "?", "type": partial(_word, kind)}
            parser.add_argument(f.name, **parsing)
            continue
        where: argparse._ActionsContainer = parser
        if f.metadata.get("either"):
            where = either = either or parser.add_mutually_exclusive_group()
        flag = flag_of(f)
        where.add_argument(flag, dest=f.name, required=required, **parsing)


def _word(kind: Callable[[str], object], said: str) -> object:
    """The value of a positional argument; argparse passes the default of an omitted one, SUPPRESS, through here too."""
    return said if said is argparse.SUPPRESS else kind(said)


def main(argv: list[str] | None = None) -> None:
    """Run one verb; exits with 1 and one line on an error, 130 on Ctrl-C."""
    given = vars(parser().parse_args(argv))
    verb: Verb = given.pop("verb")
    options = verb.options.of(given)
    if sys.stdout is None:  # closed by the shell (>&-)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe gets each line as it is written, like a terminal
    if options.debug:
        os.environ["REMORA_DEBUG"] = "1"  # for child processes, too
    if options.quiet:
        os.environ["REMORA_QUIET"] = "1"
    # SIGTERM ends like Ctrl-C: child processes are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    module, _, function = verb.function.partition(".")
    try:
        with needs(verb.extra, *verb.first):
            getattr(importlib.import_module(f"remora.commands.{module}"), function)(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as e:  # noqa: BLE001 (every error becomes one line)
        from remora.commands.edge import told

        try:
            sys.stdout.flush()
        except OSError:  # the buffer cannot be written; without this Python would report that again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(told(e, sys.argv[1:] if argv is None else argv, options.runs))


if __name__ == "__main__":
    main()
