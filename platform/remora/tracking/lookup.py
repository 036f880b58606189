"""Which version has an alias, asked without MLflow's client, whose import takes seconds.

A server is asked by its REST API, a sqlite database of MLflow's is read. This only ever finds: whatever else comes back
(no answer, no such alias, tables of another MLflow, a login by a plugin) is None, and the caller asks MLflow's client,
which knows better and says what is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import httpx

from remora.tracking.connection import database

SECONDS = 2.0
ELSEWHERE = ("MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")
"""Variables that send the client to another registry, or have it log in by a plugin."""
DELETED = "Deleted_Internal"
"""The stage that MLflow gives a version that was deleted."""


class FoundVersion(TypedDict):
    """A version, as MLflow has it."""

    version: str
    run_id: str | None
    tags: dict[str, str]
    source: str


def find_version(uri: str, name: str, label: str) -> FoundVersion | None:
    """The version of model `name` that has an alias or a number; None if that is not found in this way."""
    number = label.removeprefix("v")
    if any(os.environ.get(variable) for variable in ELSEWHERE) or label.lower() == "latest":
        return None
    exact = number if number.isdecimal() else None
    if file := database(uri):
        return _in_file(file, name, label, exact)
    if uri.startswith(("http://", "https://")):
        return _of_server(uri, name, label, exact)
    return None


def run_tag(uri: str, run: str, tag: str) -> str | None:
    """A tag of a run; None if that is not found in this way."""
    if any(os.environ.get(variable) for variable in ELSEWHERE):
        return None
    if file := database(uri):
        rows = _rows(file, "SELECT value FROM tags WHERE run_uuid = ? AND key = ?", (run, tag))
        return rows[0][0] if rows else None
    if uri.startswith(("http://", "https://")):
        data = _dict(_dict(_get(uri, "runs/get", {"run_id": run}).get("run")).get("data"))
        return _tags(data.get("tags")).get(tag)
    return None


def _in_file(file: Path, name: str, alias: str, number: str | None) -> FoundVersion | None:
    if number is None:
        named = _rows(file, "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", (name, alias))
        if len(named) != 1:  # none, or one in each of several workspaces
            return None
        number = named[0][0]
    asked = "SELECT version, run_id, source FROM model_versions WHERE name = ? AND version = ? AND current_stage != ?"
    rows = _rows(file, asked, (name, number, DELETED))
    if len(rows) != 1:
        return None
    version, run, source = rows[0]
    tags = _rows(file, "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", (name, version))
    return {"version": version, "run_id": run or None, "tags": {tag[0]: tag[1] for tag in tags}, "source": source}


def _rows(file: Path, query: str, values: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What a query finds; nothing in a database that is not there, locked or without such a table."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as asked:
            return [tuple("" if v is None else str(v) for v in row) for row in asked.execute(query, values)]
    except sqlite3.Error:
        return []


def _of_server(uri: str, name: str, alias: str, number: str | None) -> FoundVersion | None:
    path = "registered-models/alias" if number is None else "model-versions/get"
    asked = {"name": name, "alias": alias} if number is None else {"name": name, "version": number}
    found = _dict(_get(uri, path, asked).get("model_version"))
    version, run, source = (found.get(key) for key in ("version", "run_id", "source"))
    if not isinstance(version, str) or not isinstance(source, str):
        return None
    return {"version": version, "run_id": str(run) if run else None, "tags": _tags(found.get("tags")), "source": source}


def _get(uri: str, path: str, asked: Mapping[str, str]) -> dict[str, object]:
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{each}") for each in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    bearer = {"Authorization": f"Bearer {token}"} if token and not user else {}
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true"
    verify = not insecure and not os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if not (insecure or verify):
        return {}  # a certificate of its own
    try:
        answer = httpx.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/{path}",
            params=dict(asked),
            headers=bearer,
            auth=(user, password or "") if user else None,
            timeout=SECONDS,
            verify=verify,
        )
        return _dict(answer.json()) if answer.is_success else {}
    except (httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError, UnicodeDecodeError):
        return {}


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _tags(listed: object) -> dict[str, str]:
    tags = [_dict(each) for each in listed] if isinstance(listed, list) else []
    return {str(tag["key"]): str(tag["value"]) for tag in tags if tag.keys() >= {"key", "value"}}
