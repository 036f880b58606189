"""Requests that schemathesis makes of the endpoint's own description, /openapi.json: no 5xx, and answers of the form
that is described."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from cases import cases
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from remora.serving.args import EndpointArgs
from remora.serving.keys import ApiKey, hash_of
from support.serving_fake import CHAT, fake_api

FEW, MOST = 15, 5000
"""Examples of a route without a body, and of any at most: one takes 20 ms."""
KEY = {"Authorization": "Bearer rmr-of-the-tests"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
APP = fake_api(EndpointArgs(keys={"tests": ApiKey(sha256=hash_of("rmr-of-the-tests"))}))[0]
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP, headers=KEY)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


def test_every_route_is_described() -> None:
    routes = {
        f"{method} {route.path_format}"
        for route in APP.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert OPERATIONS.keys() == routes - {"GET /openapi.json"}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_requests_of_the_description_and_broken_ones(name: str, mode: GenerationMode) -> None:
    """Valid requests, and ones that break one of its rules. Only one route has a body."""
    most = min(cases(150), MOST) if CHAT in name else FEW
    statuses: Counter[int] = Counter()

    @settings(max_examples=most, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case: Case = data.draw(OPERATIONS[name].as_strategy(generation_mode=mode))
        statuses[case.call_and_validate(headers=KEY, checks=CHECKS).status_code] += 1

    ask()
    if mode is GenerationMode.POSITIVE and "{" not in name:
        assert statuses[200] > (0.1 * most if CHAT in name else 0), statuses
