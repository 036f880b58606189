"""From `canary:` in the endpoint's arguments to a candidate: a version of the served model, if it may take over."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from remora.errors import GateError, SpecError
from remora.pipeline import promotion
from remora.serving import champion
from remora.serving.args import EndpointArgs
from remora.serving.canary.trial import CandidateSource
from remora.serving.champion import ModelSource
from remora.tracking import Model, Tracker, find_model


@dataclass(frozen=True)
class PromotedCandidate:
    """Moves the endpoint's alias to the candidate, by the gate of `remora promote`."""

    candidate: Model
    given: str
    runs: Path
    tracking_uri: str | None
    model: str
    alias: str

    def __call__(self) -> str:
        """What was done.

        Raises:
            GateError: it is significantly worse on a benchmark, or was not measured.
            TrackingError: MLflow cannot be reached or refuses.
        """
        tracker = Tracker(self.runs, self.tracking_uri)
        made = promotion.promote(
            self.candidate, self.given, self.runs, tracker, self.model, self.alias, command="remora serve --canary"
        )
        if not made.moved:
            return f"{made.model}@{made.alias} named it already"
        return f"{made.model}@{made.alias}: version {made.version} instead of version {made.from_version}"


def candidate_of(args: EndpointArgs, stable: ModelSource) -> CandidateSource:
    """The candidate that `args.canary` names. One that may take over becomes a version of the served model, without
    the alias.

    Args:
        args: Resolved.

    Raises:
        SpecError: it could not take over, since the served model has no alias.
        GateError: the gate of `remora promote` would refuse it now.
        DataError: no model has its name.
        TrackingError: MLflow cannot be reached or refuses.
    """
    plan, runs = args.canary, args.runs
    assert plan is not None and runs is not None, "resolved, with a canary"
    model, identity = find_model(plan.model, runs, args.tracking_uri), uuid.uuid4().hex
    is_version = model.registered == args.model and model.version is not None
    promote = PromotedCandidate(model, plan.model, runs, args.tracking_uri, args.model, args.alias)
    version = champion.version_of(model)
    if plan.promote and not stable.registered:
        raise SpecError(
            f"canary: the candidate takes over by an alias in the registry, and {args.model} is served without one; "
            "next: remora serve name@alias --canary MODEL, or --no-promote, which only tells"
        )
    if plan.promote:
        tracker = Tracker(runs, args.tracking_uri)
        try:
            promotion.check(model, plan.model, runs, tracker, args.model, args.alias)
        except GateError as e:
            raise GateError(f"{e}; or serve it with --no-promote, which only tells") from None
        if not is_version:
            version = promotion.add_version(model, runs, tracker, args.model, None, "remora serve --canary")
            is_version = True
    own = stable.args.model_copy(update={"version": version})
    source = ModelSource(own) if is_version else ModelSource(own, champion.loader(model))
    return CandidateSource(source, version, promote, identity)
