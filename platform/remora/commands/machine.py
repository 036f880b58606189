"""The devices that a spec's `cluster: auto` is settled for: those of a Ray cluster, of this machine, or named ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from rich.console import Console

from remora import catalog
from remora.catalog import Device
from remora.commands.options import Workplace
from remora.errors import ClusterError, SpecError
from remora.planning.auto import Machine, settled_cluster
from remora.reporting.bars import counting
from remora.runs import Store, Survey
from remora.spec import Space, Variant


def settled_survey(
    looked: Survey, place: Workplace, console: Console, gpu: str | None = None, gpus: int | None = None
) -> tuple[Survey, str]:
    """Variants and space with a cluster block that is settled where it was `auto`, and the line that says why.

    Args:
        console: Shows progress: a large model's stages take ten seconds each.
        gpu: A device of the catalog to settle for; default: what is there.
        gpus: How many.

    Raises:
        SpecError: nothing fits, or the catalog does not know the GPU.
        ClusterError: no cluster answers.
    """
    machine = named(gpu, gpus) if gpu else there(place)
    with counting(console, "tracing") as hear:
        cluster, why = settled_cluster(looked.variants, machine, Store(place.runs), looked.space is None, hear)
    variants = tuple(v.model_copy(update={"cluster": cluster}) for v in looked.variants)
    space = looked.space and looked.space.model_copy(update={"cluster": cluster})
    return replace(looked, variants=variants, space=space), why


def settled_variant(variant: Variant, place: Workplace, console: Console, tell: Callable[[str], None]) -> Variant:
    """The same of one variant; `tell` hears why."""
    found, why = settled_survey(Survey((variant,)), place, console)
    tell(why)
    return found.variants[0]


def settled_space(
    space: Space, variants: Sequence[Variant], place: Workplace, console: Console, tell: Callable[[str], None]
) -> Space:
    """The same of a space with these variants."""
    found, why = settled_survey(Survey(tuple(variants), space=space), place, console)
    tell(why)
    assert found.space is not None
    return found.space


def named(gpu: str, count: int | None) -> Machine:
    """So many of a device of the catalog."""
    device, cores = catalog.device(gpu), os.cpu_count() or 1
    return Machine(device, gpu, count or (1 if device.is_gpu else cores), cores)


def there(place: Workplace) -> Machine:
    """What a Ray cluster has, if the command is to work on one that runs; else what this machine has."""
    if place.ray_cluster and not place.local:
        return _on_ray(place)
    from remora.training.flops import gpus_here

    cores, (count, name) = os.cpu_count() or 1, gpus_here()
    if count:
        known = catalog.listed(Device).items()
        return Machine(*_one([(d, n) for n, d in known if d.named == name], name), count, cores)
    return Machine(catalog.device("cpu"), "cpu", cores, cores)


def _on_ray(place: Workplace) -> Machine:
    from remora.cluster.session import cpus_and_gpus, kinds_of_gpus
    from remora.commands.run import session

    with session(place, lambda *lines: None, dashboard=False):
        (cpus, gpus), kinds = cpus_and_gpus(), kinds_of_gpus()
    if not gpus:
        return Machine(catalog.device("cpu"), "cpu", max(1, int(cpus)), cpus)
    if len(kinds) > 1:
        raise ClusterError(
            f"cluster: auto: the cluster has {', '.join(kinds)}; next: set cluster.accelerator to one of them, and the "
            "rest of the block, which remora plan SPEC --gpu NAME finds"
        )
    kind = "".join(kinds).lower()
    known = catalog.listed(Device).items()
    return Machine(*_one([(d, n) for n, d in known if kind.startswith(n)], kind.upper()), int(gpus), cpus)


def _one(found: list[tuple[Device, str]], name: str) -> tuple[Device, str]:
    if not found:
        raise SpecError(
            f"cluster: auto: the catalog has no device {name}; next: add it to devices.yaml in the folder of "
            "REMORA_CATALOG, or set the cluster block yourself"
        )
    return found[0]
