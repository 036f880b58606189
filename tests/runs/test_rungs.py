"""What rungs compare: a figure that is logged, between variants for which it is the same thing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from remora.errors import SpecError
from remora.runs import preflight, read_survey
from remora.runs.rungs import check_rungs
from remora.runs.store import Store
from remora.spec import Rule
from support.tiny import write_records

VALIDATE = {"share": 0.02}
ASKED = {"benchmark": {"name": "gqa", "limit": 32}}


def space(tmp_path: Path, **changes: object) -> Path:
    """Two rates of one composition under halving, with these keys in place of its own."""
    said = {
        "name": "rungs",
        "vision": ["clip-l-336"],
        "connector": ["mlp2x_gelu"],
        "llm": ["phi-2"],
        "recipe": ["base"],
        "overrides": {"finetune": {"validate": VALIDATE}},
        "axes": {"finetune.lr": [1.0e-5, 2.0e-5]},
        "rule": {"kind": "halving"},
        "benchmarks": ["gqa"],
        "champion": {"benchmark": "gqa"},
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(said | changes))
    return tmp_path / "space.yaml"


def overrides(**stage: object) -> dict[str, dict[str, object]]:
    return {"finetune": {"validate": VALIDATE} | stage}


ALIKE = {
    "rates": {},
    "encoders": {"vision": ["clip-l-336", "siglip-so400m-384"]},
    "connectors": {"connector": ["mlp2x_gelu", "resampler-768"]},
    "recipes": {"recipe": ["base", "share"], "overrides": {"finetune": {"validate": {"mixture": ["sharegpt-40k"]}}}},
    "batches": {"axes": {"finetune.batch": [64, 128]}},
    "lengths of training": {"axes": {"finetune.epochs": [1, 2]}},
    "seeds": {"seeds": 3},
    "aspects": {"axes": {"finetune.aspect": ["square", "pad"]}},
    "what trains": {"axes": {"finetune.tune.vision": ["frozen", "full"]}},
    "weights of its data": {
        "overrides": overrides(mixture=["llava-mix-665k", "sharegpt-40k"]),
        "axes": {"finetune.mixture.sharegpt-40k.weight": [0.5, 1]},
    },
    "data that others validate": {
        "overrides": overrides(validate={"mixture": ["sharegpt-40k"]}),
        "axes": {"finetune.mixture": {"llava": ["llava-mix-665k"], "share": ["sharegpt4v-mix-665k"]}},
    },
    "models of one repository": {"llm": ["phi-2", "phi-2-no-bias"]},
    "a score of any model": {
        "llm": ["phi-2", "tinyllama-1.1b-chat"],
        "overrides": overrides(validate=VALIDATE | ASKED),
        "rule": {"kind": "median", "figure": "gqa"},
    },
    "no rule": {"rule": {"kind": "none"}, "overrides": {}, "llm": ["phi-2", "tinyllama-1.1b-chat"]},
}


@pytest.mark.parametrize("changes", ALIKE.values(), ids=ALIKE)
def test_variants_that_differ_in_what_is_searched_are_compared(tmp_path: Path, changes: dict[str, object]) -> None:
    assert len(read_survey(space(tmp_path, **changes)).variants) >= 2


UNLIKE = {
    "language models": (
        {"llm": ["phi-2", "tinyllama-1.1b-chat"]},
        r"the language model's tokenizer: phi-2 and tinyllama-1\.1b-chat; compare a score in place of the loss: "
        r"rule: \{figure: gqa\} with overrides: \{finetune: \{validate: \{benchmark: \{name: gqa\}\}\}\}",
    ),
    "language models, one of them asked": (
        {"llm": ["phi-2", "tinyllama-1.1b-chat"], "overrides": overrides(validate=VALIDATE | ASKED)},
        r"compare a score in place of the loss: rule: \{figure: gqa\}$",
    ),
    "words that a model is made from": (
        {
            "llm": ["demo-2m"],
            "vision": ["efficientnet-lite0"],
            "axes": {"language.mixture": {"one": ["demo-captions"], "two": ["demo-finetune"]}},
        },
        r"tokenizer: demo-2m from demo-captions and demo-2m from demo-finetune",
    ),
    "templates": ({"axes": {"finetune.template": ["vicuna", "brief"]}}, "template vicuna and brief"),
    "lengths": ({"axes": {"finetune.max_length": [1024, 2048]}}, r"max_length 1,024, .* and 2,048"),
    "what is cut": ({"axes": {"finetune.count_pictures": [True, False]}}, "count_pictures: true, .*: false"),
    "shares": (
        {"axes": {"finetune.validate.share": [0.02, 0.01]}},
        r"validate: 256 samples of 0\.02 of llava-mix-665k",
    ),
    "samples": ({"axes": {"finetune.validate.limit": [64, 256]}}, "validate: 64 samples of"),
    "the data that a share is of": (
        {"axes": {"finetune.mixture": {"llava": ["llava-mix-665k"], "share": ["sharegpt4v-mix-665k"]}}},
        r"0\.02 of llava-mix-665k and .* 0\.02 of sharegpt4v-mix-665k",
    ),
    "questions": (
        {
            "axes": {"finetune.validate.benchmark.limit": [32, 64]},
            "overrides": overrides(validate=VALIDATE | ASKED),
            "rule": {"kind": "halving", "figure": "gqa"},
        },
        r"the scores on gqa of .* gqa \(32 questions\) and gqa \(64 questions\); ask all variants the same questions",
    ),
}


@pytest.mark.parametrize(("changes", "why"), UNLIKE.values(), ids=UNLIKE)
def test_what_is_unlike_is_refused_with_what_to_compare_instead(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(SpecError, match=why) as refused:
        read_survey(space(tmp_path, **changes))
    assert str(refused.value).startswith(f"{tmp_path / 'space.yaml'}:") and "\n" not in str(refused.value)


def test_a_rule_without_a_validation_is_refused_with_the_line_to_add(tmp_path: Path) -> None:
    why = (
        r"space\.yaml:\d+: rule halving decides by validations of the last stage, and 'finetune' of base-C.* has none; "
    )
    with pytest.raises(SpecError, match=why + r"add overrides: \{finetune: \{validate: \{share: 0\.02\}\}\}"):
        read_survey(space(tmp_path, overrides={}))


@pytest.mark.parametrize("figure", ["los", "pope", "accuracy"])
def test_a_figure_that_nobody_logs_is_refused_with_those_that_there_are(tmp_path: Path, figure: str) -> None:
    said = {"rule": {"kind": "median", "figure": figure}, "overrides": overrides(validate=VALIDATE | ASKED)}
    with pytest.raises(
        SpecError, match=rf"rule\.figure '{figure}' is logged by no validation .*there are: loss, gqa; "
    ) as refused:
        read_survey(space(tmp_path, **said))
    assert f"benchmark: {{name: {'pope' if figure == 'pope' else 'gqa'}}}" in str(refused.value)


def colours(tmp_path: Path, steps: int, **changes: object) -> Path:
    """A space whose data is there, so that its stages have lengths."""
    write_records(tmp_path, "other.json", count=40, images=".")  # those of train.json among them
    write_records(tmp_path, count=24, images=".")
    write_records(tmp_path, "words.json", count=12, pictures=False)
    stage = {"steps": 2, "batch": 4, "warmup_from": "first", "mixture": [{"path": str(tmp_path / "train.json")}]}
    said: dict[str, object] = {
        "vision": ["efficientnet-lite0"],
        "llm": ["demo-2m"],
        "overrides": {
            "language": stage | {"mixture": [{"path": str(tmp_path / "words.json")}]},
            "align": stage,
            "finetune": stage | {"steps": steps, "validate": {"share": 0.2}},
        },
        "rule": {"kind": "halving", "first": 0.25},
    }
    return space(tmp_path, **said | changes)


@pytest.mark.parametrize(("steps", "enough"), [(1, False), (2, True), (8, True)])
def test_a_stage_without_a_rung_before_its_end_is_refused(tmp_path: Path, steps: int, enough: bool) -> None:
    looked = read_survey(colours(tmp_path, steps))
    found = preflight(looked.variants, Store(tmp_path / "r"), tokenizers=False)
    assert looked.space
    if enough:
        check_rungs(looked.space.rule, found.paths, found.lengths)
        return
    with pytest.raises(SpecError, match=r"has 1 step, so no rung lies before its end; lower rule\.first"):
        check_rungs(looked.space.rule, found.paths, found.lengths)


def test_questions_do_not_make_losses_unlike(tmp_path: Path) -> None:
    file = colours(tmp_path, 8, axes={"finetune.validate.benchmark.limit": [2, 3]})
    said = yaml.safe_load(file.read_text())
    said["overrides"]["finetune"]["validate"]["benchmark"] = {"name": "gqa"}
    file.write_text(yaml.safe_dump(said))
    looked = read_survey(file)
    found = preflight(looked.variants, Store(tmp_path / "r"), tokenizers=False)
    assert looked.space and len(found.paths) == 2
    check_rungs(looked.space.rule, found.paths, found.lengths)


def test_losses_of_other_held_out_samples_are_refused_once_the_data_is_there(tmp_path: Path) -> None:
    """A validation's mixture leaves out what the stage trains on, which differs between variants here."""
    file = colours(tmp_path, 8)
    write_records(tmp_path, "few.json", count=12, images=".")
    all_of, few, other = ([{"path": str(tmp_path / f"{name}.json")}] for name in ("train", "few", "other"))
    said = yaml.safe_load(file.read_text()) | {"axes": {"finetune.mixture": {"all": all_of, "few": few}}}
    said["overrides"]["finetune"]["validate"] = {"mixture": other}
    file.write_text(yaml.safe_dump(said))
    looked = read_survey(file)
    found = preflight(looked.variants, Store(tmp_path / "r"), tokenizers=False)
    assert looked.space
    check_rungs(Rule(), found.paths, found.lengths)
    with pytest.raises(SpecError, match="are means over other samples, since one trains on what the other holds out"):
        check_rungs(looked.space.rule, found.paths, found.lengths)
