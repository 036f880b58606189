"""A model's bill of materials in CycloneDX 1.6: parts, data, libraries, with digests, licences and a model card.

cyclonedx-python-lib makes it, and knows neither `modelCard` nor `data` yet (11.12), so those are put into its JSON; the
whole is held against its schema by tests. Needs the extra "bom".
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from remora import __version__, catalog
from remora.catalog import LicenceLine
from remora.errors import UnknownName
from remora.pipeline.origin.explanation import Explanation
from remora.pipeline.origin.model import DataOrigin, ModelOrigin, PartOrigin
from remora.reporting.model_card.ai_facts import ai_properties, model_card_of, papers_of
from remora.reporting.model_card.card import README

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import DisjunctiveLicense

BOM = "bom.cdx.json"
SPACE = uuid.UUID("7d0e4a0c-5a1b-5a0a-9d0a-3f1f2f4f9a10")
"""Of serial numbers: one model has one."""
HUB = "https://huggingface.co"


def bill_of_materials(found: Explanation, at: datetime | None = None) -> str:
    """The text of bom.cdx.json.

    Args:
        at: When it is made; now, if not given.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    origin = found.origin
    model = _model(origin)
    parts = [_part(part) for part in origin.parts]
    data = [_data(each) for each in origin.data]
    libraries = list(_libraries(origin))
    bundle = Component(
        name=origin.name,
        version=origin.weights[:12],
        type=ComponentType.APPLICATION,
        bom_ref=f"bundle:{origin.weights}",
        description="A model as a folder: its parts' weights and configuration.",
    )
    tool = Component(name="remora", version=__version__, type=ComponentType.APPLICATION, bom_ref="tool:remora")
    bom = Bom(
        serial_number=uuid.uuid5(SPACE, origin.weights),
        metadata=BomMetaData(component=bundle, timestamp=at or datetime.now(UTC)),
        components=[model, *parts, *data, *libraries],
    )
    bom.metadata.tools.components.add(tool)
    bom.register_dependency(bundle, [model])
    bom.register_dependency(model, [*parts, *data, *libraries])
    made: dict[str, object] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    _put_in(made, origin)
    return json.dumps(made, indent=1) + "\n"


def _put_in(made: dict[str, object], origin: ModelOrigin) -> None:
    """What the library does not write. The model comes first, where other programs look for it."""
    metadata, listed = made["metadata"], made["components"]
    components = listed if isinstance(listed, list) else []
    components.sort(key=lambda each: each["bom-ref"] != _model_ref(origin))
    components[0]["modelCard"] = model_card_of(origin, _data_ref)
    if isinstance(metadata, dict):
        metadata["properties"] = [{"name": name, "value": value} for name, value in ai_properties(origin)]
    for component in components:
        of = next((d for d in origin.data if _data_ref(d) == component["bom-ref"]), None)
        if of is not None:
            component["data"] = [_contents(of)]


def _model_ref(origin: ModelOrigin) -> str:
    return f"model:{origin.weights}"


def _model(origin: ModelOrigin) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    files = {f: sha for part in origin.parts for f, sha in part.files.items()}
    return Component(
        name=origin.name,
        version=origin.weights[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_model_ref(origin),
        purl=PackageURL("generic", None, origin.name, origin.weights[:12]),
        licenses=[DisjunctiveLicense(name=f"that of its parts and data: {origin.permission.words}")],
        description=f"A vision-language model of {', '.join(p.name for p in origin.parts)}, {origin.made} with Remora.",
        external_references=[
            ExternalReference(type=ExternalReferenceType.MODEL_CARD, url=XsUri(README)),
            *(ExternalReference(type=ExternalReferenceType.DOCUMENTATION, url=XsUri(u)) for u in papers_of(origin)),
        ],
        properties=_properties(
            {
                "weights": origin.weights,
                "kind": origin.kind,
                "template": origin.template,
                "seed": origin.seed,
                "parameters": origin.parameters,
                "picture_tokens": origin.picture_tokens,
                "hours": f"{origin.hours:.3f}",
                "gpu_hours": f"{origin.gpu_hours:.3f}",
                "use": origin.permission.words,
                **{f"forbids_commercial_use.{i}": w for i, w in enumerate(origin.permission.forbids)},
                **{f"licence_open.{i}": w for i, w in enumerate(origin.permission.open)},
                **{f"not_known.{i}": w for i, w in enumerate(origin.gaps)},
            }
        ),
        components=[
            Component(
                name=file,
                type=ComponentType.FILE,
                bom_ref=f"file:{file}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha)],
            )
            for file, sha in files.items()
        ],
    )


def _part(part: PartOrigin) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    purl, pages = None, []
    if part.hub and not part.hub.startswith(("/", ".", "~")):
        owner, _, name = part.hub.rpartition("/")
        purl = PackageURL("huggingface", owner or None, name, part.revision)
        at = f"/tree/{part.revision}" if part.revision else ""
        pages = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(f"{HUB}/{part.hub}{at}"))]
    elif part.package:
        name, _, version = part.package.partition("==")
        purl = PackageURL("pypi", None, name, version or None)
    return Component(
        name=part.name,
        version=part.revision,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"part:{part.part}",
        description=f"The {part.part} of the model, before it was trained here.",
        purl=purl,
        licenses=_licences(part.licence),
        external_references=pages,
        properties=_properties(
            {
                "part": part.part,
                "source": part.source,
                "parameters": part.parameters,
                **{f"trained_by.{i}": run for i, run in enumerate(part.trained)},
            }
        ),
    )


def _data(data: DataOrigin) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    seen = data.pictures
    return Component(
        name=data.dataset,
        version=data.digest[:12] if data.digest else None,
        type=ComponentType.DATA,
        bom_ref=_data_ref(data),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=data.digest)] if data.digest else [],
        licenses=_licences(data.licence),
        properties=_properties(
            {
                "records": data.records,
                "licence_says": data.licence,
                "pictures": seen.shown if seen else None,
                "pictures_distinct": seen.distinct if seen else None,
                "pictures_digest": seen.digest if seen else None,
                **{f"left_out.{kind}": n for kind, n in data.skipped.items()},
                **{f"read_by.{i}": run for i, run in enumerate(data.stages)},
            }
        ),
    )


def _data_ref(data: DataOrigin) -> str:
    return f"data:{data.dataset}:{(data.digest or 'unknown')[:12]}"


def _contents(data: DataOrigin) -> dict[str, object]:
    left = sum(data.skipped.values())
    records = f"{data.records:,} records" if data.records is not None else "records not counted"
    return {"type": "dataset", "name": data.dataset, "description": f"Training; {records}, {left:,} left out."}


def _libraries(origin: ModelOrigin) -> Iterator[Component]:
    """What its stage runs ran on, each version once."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    ran_on = [each for stage in origin.stages for each in stage.environments]
    found = {(name, version) for each in ran_on for name, version in each["libraries"].items()}
    found |= {("remora", each["remora"]) for each in ran_on}
    for name, version in sorted(found):
        kind = ComponentType.FRAMEWORK if name in ("torch", "deepspeed", "remora") else ComponentType.LIBRARY
        purl = PackageURL("pypi", None, name, version)
        yield Component(name=name, version=version, type=kind, bom_ref=f"library:{name}@{version}", purl=purl)
    for python in sorted({each["python"] for each in ran_on}):
        yield Component(name="python", version=python, type=ComponentType.PLATFORM, bom_ref=f"platform:python@{python}")
    for device in sorted({each["gpu"] or each["cpu"] for each in ran_on}):
        yield Component(name=device, type=ComponentType.DEVICE, bom_ref=f"device:{device}")


def _licences(line: str | None) -> list[DisjunctiveLicense]:
    from cyclonedx.model import XsUri
    from cyclonedx.model.license import DisjunctiveLicense

    found = []
    for name in LicenceLine.of(line).names:
        try:
            known = catalog.licence(name)
        except UnknownName:
            found.append(DisjunctiveLicense(name=name))
            continue
        page = XsUri(known.url)
        found.append(DisjunctiveLicense(id=known.spdx, name=None if known.spdx else name, url=page))
    return found


def _properties(values: dict[str, object]) -> list[Property]:
    from cyclonedx.model import Property

    return [Property(name=f"remora:{key}", value=str(value)) for key, value in values.items() if value is not None]
