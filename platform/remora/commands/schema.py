"""`remora schema`: JSON schemas of the YAMLs that people write, made of the code that reads them.

remora schema variant > variant.json
remora schema --out .remora
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from remora.catalog.schema import CATALOG, DRAFT, FILES, Schema, modeline, schema_of, schema_of_model
from remora.commands.saying import say
from remora.commands.setup_options import SchemaOptions
from remora.data.outputs import writes
from remora.errors import SpecError, nearest

ENDPOINT = "endpoint"
KINDS = (*FILES, ENDPOINT, *(f"catalog-{kind}" for kind in CATALOG))
"""Every kind of file that has a schema."""


def schema(options: SchemaOptions) -> None:
    """Print a schema, or write all of them.

    Raises:
        SpecError: no such kind.
    """
    if options.out:
        for kind, file in write_schemas(options.out.expanduser().absolute()).items():
            say(f"{kind}: {modeline(str(file))}")
    elif options.kind is None:
        say(f"schemas: {', '.join(KINDS)}", "next: remora schema variant, or remora schema --out DIR for all")
    else:
        sys.stdout.write(json.dumps(schema_for(options.kind), indent=1) + "\n")


def write_schemas(folder: Path) -> dict[str, Path]:
    """Write every schema to `folder`; returns the files by kind."""
    files = {kind: folder / f"{kind}.json" for kind in KINDS}
    with writes(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        for kind, file in files.items():
            file.write_text(json.dumps(schema_for(kind), indent=1) + "\n")
    return files


def schema_file(kind: str, runs: Path) -> Path:
    """A schema's file in the run folder, written anew."""
    file = runs / "schemas" / f"{kind}.json"
    with writes(file, "--runs"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(schema_for(kind), indent=1) + "\n")
    return file


def schema_for(kind: str) -> Schema:
    """The schema of a kind of file.

    Raises:
        SpecError: there is no such kind.
    """
    if kind not in KINDS:
        raise SpecError(f"no schema {kind!r}{nearest(kind, KINDS)}; there are: {', '.join(KINDS)}")
    return _endpoint() if kind == ENDPOINT else schema_of(kind.removeprefix("catalog-"))


def _endpoint() -> Schema:
    """Of a Serve config: ours are the `args` of each application, the other keys are Ray's."""
    from remora.serving.args import EndpointArgs

    args = schema_of_model(EndpointArgs)
    definitions = args.pop("$defs")
    application = {"type": "object", "properties": {"args": args}}
    whole = {"type": "object", "properties": {"applications": {"type": "array", "items": application}}}
    return {"$schema": DRAFT, "title": "Remora: endpoint", **whole, "$defs": definitions}
