"""Requests that schemathesis makes of the endpoint's own description, /openapi.json: no 5xx, and answers of the form
that is described."""

from __future__ import annotations

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
from support.serving_fake import fake_api

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
    """Valid requests, and ones that break one of its rules."""

    @settings(max_examples=cases(60), suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case: Case = data.draw(OPERATIONS[name].as_strategy(generation_mode=mode))
        case.call_and_validate(headers=KEY, checks=CHECKS)

    ask()
