"""What a run talks to: MLflow, and the hub of models."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx

from remora.pipeline.checkup.finding import Finding, found, trouble
from remora.tracking.connection import database

SECONDS = 5.0
"""That a server may take to answer."""
HUB = "https://huggingface.co"


def mlflow(uri: str) -> Finding:
    """Whether MLflow answers. Training goes on without; registering and serving by an alias do not."""
    shown = re.sub(r"//[^/@]*@", "//…@", uri)
    if file := database(uri):
        return _sqlite(file)
    if not uri.startswith(("http://", "https://")):
        return found(f"{shown} is asked when it is needed")
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=SECONDS, follow_redirects=True)
    except httpx.HTTPError as e:
        return trouble(f"{shown} does not answer: {e or type(e).__name__}", "start it, or unset MLFLOW_TRACKING_URI")
    if answer.status_code in (401, 403):
        return trouble(
            f"{shown} refuses us ({answer.status_code})", "MLFLOW_TRACKING_TOKEN, or …_USERNAME and _PASSWORD"
        )
    if answer.status_code != 200:
        return trouble(f"{shown} answers {answer.status_code}", "is it MLflow's address, and does the server run?")
    return found(f"{shown} answers")


def _sqlite(file: Path) -> Finding:
    if not file.exists():
        return found(f"{file} will be made by the first run")
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as asked:
            asked.execute("SELECT count(*) FROM sqlite_master").fetchone()
            (version,) = asked.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
    except sqlite3.OperationalError as e:  # locked, no right to read it, not MLflow's: it is no reason to move it away
        return trouble(f"{file}: {e}", f"try again; if it stays so, what has it open, and the rights: ls -l {file}*")
    except sqlite3.DatabaseError as e:
        return trouble(f"{file}: {e}", f"mv {file} {file}.broken; remora sync writes a new one from the run folder")
    return found(f"{file} can be read (schema {version})")


def hub(endpoint: str | None = None) -> Finding:
    """Whether models can be downloaded. Without, everything works with what is in the cache."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no", "off"):
        return found("HF_HUB_OFFLINE is set: only what is in the cache is used")
    where = endpoint or os.environ.get("HF_ENDPOINT") or HUB
    try:
        answer = httpx.head(where, timeout=SECONDS, follow_redirects=True)
    except httpx.HTTPError as e:
        reason = str(e) or type(e).__name__
        return trouble(
            f"{where} does not answer: {reason}",
            "HF_HUB_OFFLINE=1 with an HF_HOME copied from elsewhere, HF_ENDPOINT of a mirror, or HTTPS_PROXY",
        )
    if answer.status_code >= 500:
        return trouble(f"{where} answers {answer.status_code}", "try again later, or HF_HUB_OFFLINE=1")
    token = os.environ.get("HF_TOKEN") or (Path.home() / ".cache" / "huggingface" / "token").exists()
    return found(f"{where} answers" + (", a token for gated models is set" if token else ", without a token"))
