"""What does not fit, or costs too much, is refused before anything starts; what is proposed instead is what comes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from remora.cli import main
from remora.errors import SpecError
from remora.planning.limits import price_of
from support.colours import write_colours
from support.launch import launch
from support.tiny import write_records

RANKS = Path(__file__).parents[1] / "planning" / "memory_ranks.py"
PARTS = {"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m"}
DEVICE = "small: {named: Small GPU, memory: %d, fp32: 1.0e+13, bandwidth: 1.0e+11, source: a test}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records, a benchmark, and a catalog with a GPU of its own."""
    write_records(tmp_path, count=12, images=".")
    write_records(tmp_path, "words.json", count=12, pictures=False)
    write_colours(tmp_path)
    device(tmp_path, 80_000, monkeypatch)
    return tmp_path


def device(place: Path, mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalog with a GPU of so much memory."""
    folder = place / f"catalog-{mib}"
    folder.mkdir()
    (folder / "devices.yaml").write_text(DEVICE % mib)
    monkeypatch.setenv("REMORA_CATALOG", str(folder))


def spec(place: Path, **more: object) -> str:
    stage = {"steps": 6, "batch": 32, "max_length": 512, "lr": 1e-3, "mixture": [{"path": "train.json"}]}
    overrides = {"language": stage | {"mixture": [{"path": "words.json"}]}, "align": stage, "finetune": stage}
    said: dict[str, object] = {**PARTS, "recipe": "base", "overrides": overrides, **more}
    (place / "spec.yaml").write_text(yaml.safe_dump(said))
    return str(place / "spec.yaml")


@pytest.mark.slow
def test_the_settings_that_are_proposed_fit_and_take_what_was_planned(place, monkeypatch):
    import remora

    runs = {"gpu": "small", "gpus": 1, "runs": place / "runs"}
    roomy = remora.plan(spec(place, cluster={"micro_batch": 16}), **runs)
    most = max(one.memory.total for one in roomy.sizes)
    device(place, int(0.8 * most) >> 20, monkeypatch)
    argv = ["--gpu", "small", "--gpus", "1", "--runs", str(place / "runs")]
    with pytest.raises(SystemExit) as error:
        main(["plan", spec(place, cluster={"micro_batch": 16}), *argv])
    refused = remora.plan(spec(place, cluster={"micro_batch": 16}), **runs)
    change = next(one.change for one in refused.sizes if not one.memory.fits)
    assert change is not None and f"next: set in cluster {change.words} (" in str(error.value)

    changed = {"micro_batch": 16, **change.settings}
    main(["plan", spec(place, cluster=changed), *argv])  # is not refused any more
    fits = remora.plan(spec(place, cluster=changed), **runs)
    cases, planned = {}, {}
    for one in fits.sizes:
        m = one.memory
        (run,) = (r for path in fits.paths.values() for r in path if r.id == one.runs[0])
        largest = m.largest_pass
        cases[one.stage] = {
            "stage": run.stage.model_dump(mode="json", by_alias=True), "cluster": m.cluster.model_dump(mode="json"),
            "parts": dict(run.parts), "pass": [largest.samples, largest.length, largest.pictures, largest.tokens],
            "several": -(-run.stage.batch // m.ranks) > m.cluster.micro_batch,
        }  # fmt: skip
        planned[one.stage] = m.traced.peak
    (place / "cases.json").write_text(json.dumps(cases))
    launch(RANKS, 1, place / "cases.json", place / "out.json")
    for stage, found in json.loads((place / "out.json").read_text()).items():
        assert planned[stage] == pytest.approx(found["measured"], rel=0.05), stage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "limit", "cluster", "told"),
    [
        (
            "train",
            ["--max-hours", "1e-9"],
            {},
            "--max-hours is 1e-09; nothing was started; next: fewer steps",
        ),
        ("train", ["--max-cost", "1"], {}, "--max-cost 1: there is no price; next: set cluster.gpu_price"),
        (
            "search",
            ["--max-hours", "1e-9"],
            {},
            "--max-hours is 1e-09; nothing was started; next: fewer steps",
        ),
        (
            "search",
            ["--max-cost", "1e-12"],
            {"gpus_per_worker": 1, "gpu_price": 3},
            "--max-cost is 1e-12; nothing was",
        ),
    ],
)
def test_a_limit_of_time_or_money_stops_a_command_before_it_starts(place, verb, limit, cluster, told):
    more: dict[str, object] = {"cluster": cluster}
    if verb == "search":
        parts = {part: [name] for part, name in PARTS.items()}
        more |= {**parts, "recipe": ["base"], "name": "few", "benchmarks": ["colours.yaml"]}
        more |= {"champion": {"benchmark": "colours.yaml"}}
    with pytest.raises(SystemExit, match=re.escape(told)):
        main([verb, spec(place, **more), "--local", "--plain", "--runs", str(place / "runs"), *limit])
    assert not list((place / "runs" / "stages").glob("*.work"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rate", "-1"], "--rate -1: give FLOP/s of one worker"),
        (["--rate", "0"], "--rate 0: give FLOP/s of one worker"),
        (["--rate", "nan"], "--rate nan: give FLOP/s of one worker"),
        (["--price", "-1"], "--price -1: give the price of a GPU-hour"),
        (["--gpu", ""], "unknown device ''"),
    ],
)
def test_a_rate_or_price_that_cannot_be_is_refused(place, words, why):
    with pytest.raises(SystemExit) as error:
        main(["plan", spec(place), *words, "--runs", str(place / "runs")])
    assert why in str(error.value)


@pytest.mark.parametrize("said", ["h100: -1", "h100: true", "h100: .inf", "h100: .nan", "- h100", "\xff"])
def test_a_file_of_prices_has_prices(tmp_path, said):
    (tmp_path / "prices.yaml").write_text(said, encoding="latin-1")
    with pytest.raises(SpecError, match=r"--prices .*h100: 2\.99"):
        price_of(tmp_path / "prices.yaml", "h100")
