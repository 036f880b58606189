"""A real S3 server on loopback: moto's, in a thread of the tests' process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import boto3
from botocore.client import BaseClient
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[Mapping[str, str]]:
    """The environment in which s3fs finds it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


def make_bucket(env: Mapping[str, str], name: str) -> None:
    _client(env).create_bucket(Bucket=name)


def _client(env: Mapping[str, str]) -> BaseClient:
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_DEFAULT_REGION"],
    )


def keys_of(env: Mapping[str, str], bucket: str) -> list[str]:
    """Every object's key."""
    client = _client(env)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]
