"""What the tests share: tiny data, a tiny tokenizer, a tiny model. Nothing here needs a network or a GPU.

Torch is imported by the fixtures that need it: a room without torch has its tests collected in a second.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from remora import catalog
from support.tiny import write_records

# The same examples every time: a failure is the change's, not the day's.
settings.register_profile("remora", derandomize=True, deadline=None)
settings.load_profile("remora")

# Tables are as wide as in a pipe, here and in child processes, whatever the terminal or the CI that runs the tests.
os.environ.pop("COLUMNS", None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what `make test-fast` leaves out of a test with many cases: all but `sampled(n)` of them, evenly spread."""
    cases = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault((item.path, item.originalname), []).append(item)
    for group in cases.values():
        kept = min(group[0].get_closest_marker("sampled").args[0], len(group))
        fast = {i * len(group) // kept for i in range(kept)}
        for i, item in enumerate(group):
            if i not in fast:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def variables_of_this_test():
    """`mlflow.set_tracking_uri`, `--debug` and `--quiet` set these for child processes; later tests are none."""
    names = ("MLFLOW_TRACKING_URI", "REMORA_DEBUG", "REMORA_QUIET")
    before = {name: os.environ[name] for name in names if name in os.environ}
    yield
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


WORDS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is in the picture? ASSISTANT: a red circle",
    "USER: Is there a blue square? ASSISTANT: yes, there are two",
]


@pytest.fixture
def tiny_data(tmp_path):
    """`write_records` below tmp_path."""

    def make(path="train.json", count=3, images="images", pictures=True):
        return write_records(tmp_path, path, images, count, pictures)

    return make


@pytest.fixture
def catalog_data(tmp_path, tiny_data):
    """A data folder that holds three records of every dataset of the catalog."""
    for name, entry in catalog.entries("datasets").items():
        tiny_data(entry.path, images=entry.images, pictures=not name.endswith("-language"))
    return tmp_path


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from remora.model.llm import train_tokenizer

    return train_tokenizer(WORDS, 340)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A sqlite MLflow with tables: making them takes seconds, so once a session, then copied for each test."""
    from remora.tracking import Tracker

    folder = tmp_path_factory.mktemp("empty")
    Tracker(folder, f"sqlite:///{folder}/mlflow.db", experiment="not remora").sync()
    return folder / "mlflow.db"


@pytest.fixture
def tiny_model():
    """`toy.build_model`."""
    from support.toy import build_model

    return build_model()
