"""`remora plan --gpu`: memory, time and money on a device, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remora.cli import main
from remora.errors import SpecError

SPEC = """
vision: efficientnet-lite0
connector: mlp2x_gelu
llm: smollm2-135m
recipe: llava-1.5
cluster: {micro_batch: 2, precision: bf16}
overrides: {align: {max_length: 256}, finetune: {max_length: 256}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(SPEC)
    return file


def plan(spec: Path, *more: str) -> None:
    main(["plan", str(spec), "--runs", str(spec.parent / "runs"), *more])


@pytest.mark.slow
def test_a_plan_for_a_device_has_memory_time_and_money(spec, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    prices = spec.with_name("prices.yaml")
    prices.write_text("l4: 0.8\nh100: 2.99\n")
    plan(spec, "--gpu", "l4", "--gpus", "2", "--prices", str(prices), "--json")
    said = json.loads(capsys.readouterr().out)
    align, finetune = said["memory"]
    assert (align["stage"], finetune["stage"], said["device"]) == ("align", "finetune", "l4")
    assert align["parameters"]["llm"] == {"all": 134_515_008, "trained": 0}
    for one in said["memory"]:
        assert one["fits"] and one["ranks"] == 2 and one["capacity"] == 23_034 << 20
        assert sum(one["terms"].values()) == one["bytes"] and one["largest"] == max(one["terms"], key=one["terms"].get)
    assert said["rate"]["source"].startswith("assumed: 40% of NVIDIA L4's 1.21e+14 FLOP/s in bf16")
    (way,) = said["ways"]
    assert way["cost"] == pytest.approx(0.8 * way["gpu_hours"])
    assert way["gpu_hours"] == pytest.approx(way["operations"] / (0.4 * 121e12) / 3600)
    plan(spec, "--gpu", "l4")
    told = capsys.readouterr().out
    assert "Memory of a rank on l4, 22.5 GiB" in told and "gradient bucket" in told
    assert max(map(len, told.partition("Memory of")[2].partition("Parameters")[0].splitlines())) <= 80
    assert "4.44" in told and "80%" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpus", "2"], "--gpus 2: give how many there are, 1 or more, with --gpu NAME"),
        (["--gpu", "h10"], "unknown device 'h10'; did you mean 'h100'?"),
        (["--max-hours", "0.001"], "--max-hours is 0.001; nothing was started"),
        (["--max-cost", "1"], "--max-cost 1: there is no price"),
    ],
)
def test_what_cannot_be_planned_is_told_in_a_line(spec, options, told, capsys):
    with pytest.raises((SpecError, SystemExit)):
        plan(spec, *options, "--debug")
    assert told in capsys.readouterr().err
