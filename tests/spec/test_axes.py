"""What a space may choose from: axes, conditions, the grid against brute force, and mistakes with their lines."""

from __future__ import annotations

from itertools import product

import pytest

from remora.errors import SpecError
from remora.spec import Choice, Range, Space, load, load_job
from remora.spec.axes import figure, short_names

HEAD = "name: s\nvision: [v, w]\nconnector: [c]\nllm: [m]\nrecipe: [base, share]\nchampion: {benchmark: x}\n"


@pytest.fixture
def space(tmp_path):
    def read(more: str) -> Space:
        (tmp_path / "spec.yaml").write_text(HEAD + more)
        return load(Space, tmp_path / "spec.yaml")

    return read


@pytest.fixture
def refused(space, tmp_path):
    def say(more: str) -> str:
        with pytest.raises(SpecError) as caught:
            space(more)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return say


def test_the_domain_is_the_lists_the_axes_and_the_seeds_in_one_order(space):
    found = space(
        "seed: 5\nseeds: 2\naxes:\n  finetune.lr: [1e-4, 0.03]\n  data: {a: {align.mixture: [x]}, b: {align.lr: 1.0}}\n"
        "  tune.vision: [frozen, {last: 6}]\n  finetune.mixture: [[x], [x, y]]\n"
    ).domain()
    assert list(found) == [
        *("recipe", "vision", "llm", "connector"),
        *("finetune.lr", "data", "tune.vision", "finetune.mixture", "seed"),
    ]
    assert found["vision"] == Choice(("v", "w"), ("v", "w"))
    assert found["finetune.lr"] == Choice((1e-4, 0.03), ("1e-4", "0.03"))
    assert found["data"] == Choice(({"align.mixture": ["x"]}, {"align.lr": 1.0}), ("a", "b"))
    assert found["tune.vision"].labels == ("frozen", "last6")
    assert found["finetune.mixture"].labels == ("x", "x+y")
    assert found["seed"] == Choice((5, 6), ("5", "6"))


def test_the_grid_is_the_product_less_what_conditions_leave_out(space):
    found = space(
        "seeds: [3, 4]\naxes:\n  align.lr: [1, 2, 3]\n  pretrain.lr: {values: [4, 5], when: {recipe: share}}\n"
        "  pretrain.batch: {values: [6, 7], when: {pretrain.lr: 5}}\n"
        "exclude: [{vision: v, align.lr: [1, 2]}, {pretrain.batch: 7, seed: 4}]\n"
        "only: [{recipe: share}, {align.lr: 3}]\n"
    )
    brute = []
    for recipe, vision, align, rate, batch, seed in product(
        ("base", "share"), ("v", "w"), (1, 2, 3), (4, 5), (6, 7), (3, 4)
    ):
        one = {"recipe": recipe, "vision": vision, "llm": "m", "connector": "c", "align.lr": align}
        if recipe == "share":
            one["pretrain.lr"] = rate
            if rate == 5:
                one["pretrain.batch"] = batch
        one["seed"] = seed
        if (vision == "v" and align < 3) or (one.get("pretrain.batch") == 7 and seed == 4):
            continue
        if (recipe == "share" or align == 3) and one not in brute:
            brute.append(one)
    assert list(found.grid()) == brute and len(brute) > 10
    for one in brute:
        assert found.active(one) == tuple(one) and found.excluded(one) is None


def test_an_assignment_says_why_it_is_left_out(space):
    found = space("exclude: [{vision: v, recipe: [share, base]}]\nonly: [{recipe: share}, {vision: w}]\n")
    one = {"recipe": "share", "vision": "v", "llm": "m", "connector": "c"}
    assert found.excluded(one) == "exclude: vision v, recipe share or base"
    assert space("only: [{recipe: base}]\n").excluded(one) == "only: recipe base"


def test_a_condition_names_a_value_or_its_label(space):
    found = space(
        "axes:\n  finetune.mixture: {a: [x], b: [y]}\n  finetune.lr: {values: [1], when: {finetune.mixture: b}}\n"
    )
    assert [len(one) for one in found.grid()] == [5, 6] * 4


def test_a_range_is_sampled_and_has_two_corners(space):
    text = "axes:\n  finetune.lr: {low: 1e-5, high: 1e-3, log: true}\n  batch: {low: 8, high: 64, integer: true}\n"
    found = space(text + "sampler: {kind: optuna, trials: 20}\n")
    assert found.domain()["finetune.lr"] == Range(1e-5, 1e-3, log=True)
    with pytest.raises(SpecError, match=r"a grid has no end over the range of finetune.lr, batch; list"):
        found.grid()
    ends = [(one["finetune.lr"], one["batch"]) for one in found.corners()]
    assert ends == [(1e-5, 8), (1e-5, 64), (1e-3, 8), (1e-3, 64)] * 4


def test_numbers_of_a_range_keep_what_their_label_says():
    rates, sizes = Range(1e-5, 1e-3, log=True), Range(8, 64, integer=True)
    assert (rates.find(1.23456789e-4), rates.label(1.23456789e-4)) == (1.235e-4, "1.235e-4")
    assert rates.find(1e-3) == 1e-3 and sizes.find(8.7) == 9
    with pytest.raises(ValueError, match=r"0.1 is no number from 1e-5 to 1e-3"):
        rates.find(0.1)


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-4, "1e-4"), (0.00025, "2.5e-4"), (0.03, "0.03"), (256, "256"), (256.0, "256"), (0.5, "0.5"), (0, "0")],
)
def test_figures_are_short(number, text):
    assert figure(number) == text


def test_axes_have_the_shortest_end_that_tells_them_apart():
    names = ["align.lr", "finetune.lr", "finetune.tune.vision", "data", "finetune.tune.llm.lora.r"]
    assert short_names(names) == {
        "align.lr": "align.lr",
        "finetune.lr": "finetune.lr",
        "finetune.tune.vision": "vision",
        "data": "data",
        "finetune.tune.llm.lora.r": "r",
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("axes:\n  finetune.lrr: [1]", "spec.yaml:8: axes.finetune.lrr: unknown key 'lrr'; did you mean 'lr'?"),
        ("axes:\n  finetune.tune.visoin.lr: [1]", "spec.yaml:8: axes.finetune.tune.visoin.lr: unknown key 'visoin'"),
        ("axes:\n  finetune.lr.peak: [1]", "spec.yaml:8: axes.finetune.lr.peak: unknown key 'peak' (lr has none)"),
        ("axes:\n  max_lenght: [1]", "spec.yaml:8: axes.max_lenght: 'max_lenght' is no key of a stage; did you mean"),
        ("axes:\n  finetune.mixture.x: [1]", "spec.yaml:8: axes.finetune.mixture.x: after mixture comes a dataset"),
        ("axes:\n  vision: [a]", "spec.yaml:8: axes.vision: write it beside axes: vision: […]"),
        ("axes:\n  seed: [1]", "spec.yaml:8: axes.seed: write it beside axes: seeds: […]"),
        ("axes:\n  finetune.lr: [1, 1.0]", "spec.yaml:8: axes.finetune.lr: 1 is listed twice"),
        ("axes:\n  finetune.lr: []", "spec.yaml:8: axes.finetune.lr: has no values"),
        ("axes:\n  finetune.lr: 3", "spec.yaml:8: axes.finetune.lr: must be keys with values (found 3)"),
        ("axes:\n  finetune.lr: {a b: 3}", "spec.yaml:8: axes.finetune.lr: 'a b' is no label"),
        ("axes:\n  tune.llm: [{lora: {r: 8}}]", "spec.yaml:8: axes.tune.llm: {'lora': {'r': 8}} has no short name"),
        ("axes:\n  data:\n    a: {finetune.lrr: 1}", "spec.yaml:8: axes.data: unknown key 'lrr'"),
        ("axes:\n  lr: {low: 1, hihg: 2}", "spec.yaml:8: unknown key 'axes.lr.hihg'; did you mean 'high'?"),
        ("axes:\n  lr: {low: 2, high: 1}", "spec.yaml:8: axes.lr: a range needs low and high, the lower first"),
        ("axes:\n  lr: {low: 0, high: 1, log: true}", "spec.yaml:8: axes.lr: log: true needs a range above 0"),
        ("axes:\n  lr: {low: 0.5, high: 1, integer: true}", "spec.yaml:8: axes.lr: integer: true needs whole numbers"),
        ("axes:\n  lr: {low: 1, high: 2, values: [1]}", "spec.yaml:8: axes.lr: give either values or a range"),
        ("axes:\n  lr: {values: [1], log: true}", "spec.yaml:8: axes.lr: log and integer are for ranges"),
        ("axes:\n  lr: {low: 1, high: 2}", "spec.yaml:8: axes.lr: a grid has no end over the range of lr; list its"),
        (
            "axes:\n  lr: {values: [1], when: {batch: 2}}\n  batch: [2]",
            "spec.yaml:8: axes.lr.when.batch: a condition of an axis names those before it: recipe, vision",
        ),
        ("exclude:\n- {vison: v}", "spec.yaml:8: exclude.0.vison: no axis of that name; did you mean 'vision'?"),
        ("only:\n- {recipe: base}\n- {vision: [v, q]}", "spec.yaml:9: only.1.vision: 'q' is none of its values: v, w"),
        ("cases:\n- {when: {recipe: bose}, overrides: {a: {}}}", "spec.yaml:8: cases.0.when.recipe: 'bose' is none"),
        ("cases:\n- {when: {}, overrides: {a: {}}}", "spec.yaml:8: cases.0.when: has 0 items, and must have 1 or more"),
        ("seeds: 0", "spec.yaml:7: seeds: 0 is neither a number of seeds from 1 to 1,000 nor a list of different ones"),
        ("seeds: 4611686018427387904", "spec.yaml:7: seeds: 4611686018427387904 is neither"),
        ("seeds: [2, 2]", "spec.yaml:7: seeds: a list of 2 is neither"),
        ("sampler: {kind: random}", "spec.yaml:7: sampler: kind random needs trials"),
        ("sampler: {trials: 3}", "spec.yaml:7: sampler: a grid tries every variant"),
        ("rule: {kind: halving, eta: 1}", "spec.yaml:7: rule.eta: must be 2 or more (found 1)"),
        ("rule: {first: 1}", "spec.yaml:7: rule.first: must be below 1 (found 1)"),
        ("objectives: [{figure: gqa, direction: up}]", "spec.yaml:7: objectives.0.direction: must be 'max' or 'min'"),
        ("budget: {hours: 0}", "spec.yaml:7: budget.hours: must be above 0 (found 0)"),
        ("smoke: {visoin: [a]}", "spec.yaml:7: smoke.visoin: smoke cannot replace it; did you mean 'vision'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(more, message, refused):
    found = refused(more)
    assert found.startswith(message) and "\n" not in found


def test_objectives_are_words_or_figures_with_a_direction(space):
    found = space("objectives: [gqa, {figure: parameters, direction: min}]\n").objectives
    assert [(o.figure, o.direction) for o in found] == [("gqa", "max"), ("parameters", "min")]


@pytest.mark.slow
def test_a_sampled_space_may_be_larger_than_a_grid(refused, space):
    lists = "axes: {" + ", ".join(f"{k}: {list(range(1, 12))}" for k in ("lr", "batch", "eps", "clip")) + "}\n"
    assert "58,564 variants, and a space has 10,000 at most" in refused(lists)
    assert space(lists + "sampler: {kind: random, trials: 5}\n").sampler.trials == 5
    few = "exclude: [{lr: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}]\n"
    assert sum(1 for _ in space(lists + few).grid()) == 4 * 11**3
    assert "10,001 variants" in refused(lists + "exclude: [{lr: [2]}]\n")


def test_a_smoke_block_replaces_keys_and_keeps_their_lines(space, tmp_path):
    text = (
        "axes:\n  finetune.lr: [1, 2]\nexpect: {variants: 4, stage_runs: 1, steps: 1, samples: 1}\nseeds: 3\n"
        "smoke:\n  vision: [demo]\n  seeds: null\n  overrides:\n    align: {steps: 2}\n"
    )
    whole = space(text)
    assert whole.vision == ("v", "w") and whole.expect is not None
    smoke, lines = load_job(tmp_path / "spec.yaml", "space", smoke=True)
    assert isinstance(smoke, Space) and smoke.name == "s-smoke" and smoke.vision == ("demo",)
    assert smoke.axes == whole.axes and smoke.seeds == () and smoke.expect is None
    assert (whole.champion.register_as, smoke.champion.register_as) == ("remora", "remora-smoke")
    assert smoke.overrides == {"align": {"steps": 2}} and lines["overrides", "align"] == 15
    assert ("vision", 0) in lines and ("vision", 1) not in lines
    (tmp_path / "spec.yaml").write_text(HEAD + text.replace("[demo]", "3"))
    with pytest.raises(SpecError, match=r"spec.yaml:12: vision: must be a list"):
        load_job(tmp_path / "spec.yaml", "space", smoke=True)
    (tmp_path / "spec.yaml").write_text(HEAD)
    with pytest.raises(SpecError, match="has no smoke: block"):
        load_job(tmp_path / "spec.yaml", "space", smoke=True)


def test_paths_of_an_axis_are_looked_for_beside_the_spec(space, tmp_path):
    (tmp_path / "mine.json").write_text("[]")
    found = space(
        "axes:\n  align.mixture: {a: [{path: mine.json}]}\n  data: {b: {finetune.mixture: [{path: mine.json}, x]}}\n"
        "cases: [{when: {vision: v}, overrides: {align: {mixture: [{path: mine.json}]}}}]\n"
        "smoke: {axes: {mixture: [[x]], align.mixture: {values: {a: [{path: mine.json}]}}}}\n"
    )
    there = {"path": str(tmp_path / "mine.json")}
    assert found.domain()["align.mixture"].values == ([there],)
    assert found.domain()["data"].values == ({"finetune.mixture": [there, "x"]},)
    assert found.cases[0].overrides == {"align": {"mixture": [there]}}
    assert found.smoke["axes"] == {"mixture": [["x"]], "align.mixture": {"values": {"a": [there]}}}
