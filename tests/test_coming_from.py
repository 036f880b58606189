"""Scripts of other trainers as jobs; and docs/coming-from.md, whose tables are those that the verb reads.

After a change of platform/remora/commands/trainers.yaml, write the tables again:

    python tests/test_coming_from.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "platform"))

from remora.commands.scripts import flags_of, stages_of  # noqa: E402
from remora.commands.trainers import (  # noqa: E402
    LAUNCHER,
    OtherTrainer,
    defaults_of,
    rules_of,
    trainers,
)
from remora.commands.translating import known_name, trainer_of, translate  # noqa: E402
from remora.errors import DataError, SpecError  # noqa: E402
from remora.spec import Cluster, Stage, Variant  # noqa: E402
from remora.spec.base import keys_of, models_in  # noqa: E402

PAGE = ROOT / "docs" / "coming-from.md"
PRETRAIN = r"""#!/bin/bash
# --commented_out 1
MODEL=lmsys/vicuna-7b-v1.5
deepspeed --include localhost:0,1,2,3 --master_port 29501 llava/train/train_mem.py \
    --deepspeed ./scripts/zero2.json --model_name_or_path ${MODEL} --version plain \
    --data_path ./data/558k.json --image_folder ./data/images \
    --vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu --tune_mm_mlp_adapter True \
    --mm_vision_select_layer -2 --bf16 True --output_dir ./out --num_train_epochs 1 \
    --per_device_train_batch_size 32 --gradient_accumulation_steps 2 --learning_rate 1e-3 --weight_decay 0. \
    --warmup_ratio 0.03 --lr_scheduler_type "cosine" --model_max_length 2048 --gradient_checkpointing True \
    --tf32 True --my_own_flag 3
"""
FINETUNE = (
    PRETRAIN.replace("--tune_mm_mlp_adapter True", "--lora_enable True --lora_r 128 --mm_projector_lr 2e-5")
    .replace("version plain", "version v1")
    .replace("zero2", "zero3_offload")
)
FACTORY = {
    "model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct", "stage": "sft", "finetuning_type": "lora", "lora_rank": 16,
    "lora_target": "q_proj,v_proj", "dataset": "mllm_demo", "cutoff_len": 1024, "max_samples": 1000,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "val_size": 0.1, "eval_steps": 500,
    "bf16": True,
}  # fmt: skip
SWIFT = """CUDA_VISIBLE_DEVICES=0,1 NPROC_PER_NODE=2 \\
swift sft --model Qwen/Qwen2.5-VL-7B-Instruct --train_type full --dataset a.jsonl#1000 b.jsonl --torch_dtype bfloat16 \\
  --freeze_vit false --freeze_aligner=false --per_device_train_batch_size 4 --deepspeed zero2 --split_dataset_ratio 0.01
"""
NANO = """
class VLMConfig:
    vit_model_type: str = "google/siglip2-base-patch16-512"
    lm_model_type: str = "HuggingFaceTB/SmolLM2-360M-Instruct"
    mp_pixel_shuffle_factor: int = 4
    vit_inter_dim: int = 4 * 768
class TrainConfig:
    lr_mp: float = 0.00512
    lr_vision_backbone: float = 0
    batch_size: int = 2
    gradient_accumulation_steps: int = 8
    max_training_steps: int = 40000
    train_dataset_path: str = "mine.json"
    lmms_eval_tasks: str = "mmmu,ocrbench"
"""


def table(one: OtherTrainer) -> str:
    """A trainer's table as the page has it."""
    rows = [f"| {row.theirs} | {row.ours} |" for row in one.rows]
    return "\n".join([f"| {one.head} | ours |", "| --- | --- |", *rows]) + "\n"


def with_tables(page: str) -> str:
    """The page with each table as the rows have it: the first one after its title."""
    for one in trainers().values():
        at = page.index(f"\n{one.title}:\n" if one.like and one.title.endswith("alone") else f"## {one.title}\n")
        start = page.index("\n| ", at) + 1
        end = re.compile(r"(?m)^(?!\|)").search(page, start)
        assert end
        page = page[:start] + table(one) + page[end.start() :]
    return page


def test_the_page_has_the_tables_that_the_verb_reads() -> None:
    assert with_tables(PAGE.read_text()) == PAGE.read_text(), f"python {Path(__file__).relative_to(ROOT)} writes them"


@pytest.mark.parametrize("name", trainers())
def test_every_rule_leads_to_a_key_that_there_is(name: str) -> None:
    for flag, rule in rules_of(name).items():
        ends = [rule.to] if rule.to else []
        ends += [key for by in (rule.sets, rule.implies, rule.with_lora) for keys in by.values() for key in keys]
        ends += list(trainers()[name].fixed)
        for end in ends:
            first, *path = end.split(".")
            model = {"stage": Stage, "cluster": Cluster}.get(first, Variant)
            for key in path or [first]:
                assert key in {*keys_of(model), "last", "from"}, (flag, end)
                model = next(iter(models_in(keys_of(model).get(key))), model)
        does = [rule.to, rule.role, rule.drop, rule.none, rule.sets or None]
        assert any(one is not None for one in does), flag
        assert not rule.words or rule.to, flag
        named = {*rule.if_, *rule.with_, rule.unless} - {None}
        assert named <= rules_of(name).keys(), flag
    assert defaults_of(name).keys() <= rules_of(name).keys()


def test_every_flag_of_a_table_has_a_rule() -> None:
    """A flag that a row names by itself, `--lora_r 128` or `cutoff_len`, is one that the verb reads."""
    for name, one in trainers().items():
        known = rules_of(name).keys() | LAUNCHER.keys()
        for row in one.rows:
            for code in re.findall(r"`([^`]+)`", row.theirs):
                if name in ("llama-factory", "nanovlm"):
                    flags = (
                        [] if code == "lora" else re.findall(r"^([a-z_]+)(?::|$)", code)
                    )  # `finetuning_type: full`, `lora`
                else:
                    flags = re.findall(r"--([a-z_0-9]+)", code) if not code.startswith(("swift ", "remora")) else []
                assert set(flags) <= known, (name, code)


def said(tmp_path: Path, name: str, text: str) -> dict[str, object]:
    (tmp_path / name).write_text(text)
    return flags_of(tmp_path / name)


def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict, list[dict], str]:
    from remora.cli import main

    main(["import-config", *words, "--out", str(tmp_path / "job.yaml"), "--runs", str(tmp_path / "runs")])
    job, recipe = (yaml.safe_load((tmp_path / f).read_text()) for f in ("job.yaml", "job-recipe.yaml"))
    return job, recipe["stages"], capsys.readouterr().out


def test_two_scripts_of_llava_are_a_job_of_two_stages(tmp_path, capsys):
    for name, text in (("a.sh", PRETRAIN), ("b.sh", FINETUNE)):
        (tmp_path / name).write_text(text)
    job, (align, finetune), told = imported(tmp_path, capsys, str(tmp_path / "a.sh"), str(tmp_path / "b.sh"))
    assert (job["vision"], job["connector"], job["llm"]) == ("clip-l-336", "mlp2x_gelu", "vicuna-7b-v1.5")
    assert job["cluster"] == {
        "precision": "bf16", "activation_checkpointing": True, "micro_batch": 32, "workers": 4, "gpus_per_worker": 1,
        "zero": 3, "offload": "all",
    }  # fmt: skip
    assert (align["name"], finetune["name"]) == ("align", "finetune")
    assert align["tune"] == {"vision": "frozen", "connector": "full", "llm": "frozen"}
    lora = {"r": 128, "alpha": 16, "dropout": 0.05}  # LLaVA's own alpha
    assert finetune["tune"] == {
        "vision": "frozen", "connector": {"mode": "full", "lr": 2e-5}, "llm": {"lora": lora},
    }  # fmt: skip
    assert (align["template"], finetune["template"]) == ("plain", "vicuna")
    for stage in (align, finetune):
        assert (stage["batch"], stage["lr"], stage["epochs"], stage["max_length"]) == (256, 1e-3, 1, 2048)
        assert (stage["warmup"], stage["warmup_from"]) == (0.03, "zero")
        assert stage["mixture"] == [{"path": "./data/558k.json", "images": "./data/images"}]
    assert (align["schedule"], finetune["schedule"]) == ("cosine", "constant")  # zero3_offload.json has WarmupLR
    lines = told.splitlines()
    assert "unknown: --my_own_flag 3" in lines
    assert "no counterpart: --tf32 (TF32 is off, as exactness needs)" in lines
    assert "nothing to write: --output_dir (--runs DIR, or REMORA_RUNS)" in lines
    assert "one for the whole job: cluster.zero: 3 of b.sh, not 2 of a.sh" in lines
    assert "commented_out" not in told


def test_no_flag_is_lost(tmp_path):
    """Each is translated, needless, without counterpart or unknown."""
    scripts = {"a.sh": PRETRAIN, "b.sh": FINETUNE, "c.yaml": yaml.safe_dump(FACTORY), "d.sh": SWIFT, "e.py": NANO}
    for name, text in scripts.items():
        flags = said(tmp_path, name, text)
        made = translate(trainer_of(flags, tmp_path / name), flags)
        told = {*made.translated, *made.needless, *made.missing, *made.unknown}
        assert told == flags.keys(), name


def test_llama_factory(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(FACTORY))
    parts = ["--vision", "siglip2-base-224", "--connector", "mlp2x_gelu", "--llm", "qwen2-0.5b-instruct"]
    job, (stage,), told = imported(tmp_path, capsys, str(tmp_path / "c.yaml"), *parts, "--gpus", "4")
    assert stage["tune"]["llm"] == {"lora": {"r": 16, "alpha": 32, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}}
    assert "tune.llm.lora.alpha: 32" in told and "tune.llm.lora.dropout: 0.0" in told and "lora.r:" not in told
    assert stage["validate"] == {"share": 0.1, "every": 500} and stage["batch"] == 32
    assert stage["mixture"] == [{"path": "mllm_demo", "cap": 1000}] and job["cluster"]["workers"] == 4
    assert "assumed, as that trainer does: epochs: 3.0" in told and "lr: 5.0e-05" in told


def test_ms_swift(tmp_path):
    flags = said(tmp_path, "d.sh", SWIFT)
    made = translate(trainer_of(flags, tmp_path / "d.sh"), flags)
    stage = made.stage()
    assert stage["tune"] == {"vision": "full", "connector": "full", "llm": "full"}
    assert stage["mixture"] == [{"path": "a.jsonl", "cap": 1000}, {"path": "b.jsonl"}]
    assert stage["lr"] == 1e-5 and stage["batch"] == 16 and made.keys["cluster.workers"] == 2
    assert made.keys["cluster.zero"] == 2 and "model" in made.missing


@pytest.mark.parametrize(
    ("tuner", "vision", "connector", "llm"),
    [
        ("--tuner_type lora --lora_rank 16 --freeze_vit false --freeze_aligner false", "lora", "full", "lora"),
        ("--tuner_type full --freeze_vit false --vit_lr 1e-5", {"mode": "full", "lr": 1e-5}, "frozen", "full"),
        ("--tuner_type lora_llm --lora_rank 16 --vit_lr 1e-5", {"mode": "full", "lr": 1e-5}, "full", "lora"),
        ("--tuner_type lora_llm --lora_rank 16 --freeze_vit false", "full", "full", "lora"),
        ("--tuner_type lora --lora_rank 16 --vit_lr 1e-5", "frozen", "frozen", "lora"),
    ],
)
def test_ms_swift_has_adapters_on_every_part_that_is_not_frozen(tmp_path, tuner, vision, connector, llm):
    flags = said(tmp_path, "d.sh", f"swift sft {tuner}\n")
    made = translate("ms-swift", flags)
    lora = {"lora": {"r": 16, "alpha": 32, "dropout": 0.05, "targets": "all-linear"}}
    parts = {"vision": vision, "connector": connector, "llm": llm}
    assert made.stage()["tune"] == {part: lora if mode == "lora" else mode for part, mode in parts.items()}
    assert {*made.translated, *made.needless, *made.missing} == flags.keys()
    if "frozen" in (vision, connector) and "vit_lr" in flags and vision == "frozen":
        assert made.needless["vit_lr"] == "vision is frozen"
    assert ("freeze_aligner" in made.missing) is (connector == "full" and vision == "lora")


def test_an_encoder_is_read_at_its_entrys_layer():
    given = {"vision_tower": "openai/clip-vit-large-patch14-336"}
    assert "mm_vision_select_layer" not in translate("llava", {**given, "mm_vision_select_layer": -2}).missing
    made = translate("llava", {**given, "mm_vision_select_layer": -1})
    assert made.missing["mm_vision_select_layer"].startswith("clip-l-336 is read at layer -2; another takes an entry")


def test_what_is_held_out(tmp_path):
    def stage(words: str) -> dict[str, object]:
        return translate("ms-swift", said(tmp_path, "d.sh", f"swift sft --tuner_type lora {words}")).stage()

    assert stage("--val_dataset b.json --split_dataset_ratio 0.1 --eval_steps 9")["validate"] == {
        "mixture": [{"path": "b.json"}], "every": 9,
    }  # fmt: skip
    assert "validate" not in stage("--split_dataset_ratio 0 --eval_steps 9 --dataset a.json")


SHELL = """
DATA="$1"; LR=${LR:-2e-5}
ARGS=(--model_max_length 99
  --warmup_ratio 0.5)
EXTRA="--version v1
  --max_steps ${STEPS}"
python merge.py --model_path x --batch 3  # --nothing
deepspeed --num_gpus 2 train.py --tune_mm_mlp_adapter True --data_path $DATA --vision_tower2 "" \\
  --run_name ${DATA#*/} "${ARGS[@]}" $EXTRA --save_steps 5 #--commented 1
  #--commented 2
  --learning_rate $LR 2>&1 | tee --append log.txt
"""


def test_a_shell_script_is_read_as_a_shell_does(tmp_path):
    flags = said(tmp_path, "a.sh", SHELL)
    assert flags == {
        "model_max_length": 99, "warmup_ratio": 0.5, "num_gpus": 2, "tune_mm_mlp_adapter": True, "data_path": "$1",
        "vision_tower2": "", "run_name": "${DATA#*/}", "version": "v1", "max_steps": "${STEPS}", "save_steps": 5,
        "learning_rate": 2e-5,
    }  # fmt: skip
    made = translate("llava", flags)
    assert made.missing["data_path"] == "$1 is not set in the script, but by the one that calls it: give that one"
    assert made.missing["max_steps"] == "${STEPS} is not set in the script"
    assert "stage.mixture" not in made.keys and made.keys["stage.epochs"] == made.taken["stage.epochs"] == 3.0


def test_a_script_that_calls_others_gives_them_its_words(tmp_path, capsys):
    """As TinyLLaVA Factory's: the inner scripts read `$1`, and are named from the repository's root."""
    inner = tmp_path / "scripts" / "train"
    inner.mkdir(parents=True)
    pretrain = "DATA=$1\nEPOCHS=$2\n" + PRETRAIN.replace("./data/558k.json", "$DATA").replace(
        "num_train_epochs 1", "num_train_epochs $EPOCHS"
    )
    (inner / "pretrain.sh").write_text(pretrain)
    (inner / "finetune.sh").write_text(pretrain.replace("--tune_mm_mlp_adapter True", "").replace("plain", "v1"))
    outer = inner / "all.sh"
    outer.write_text(
        'MIX=b.json\nbash scripts/train/pretrain.sh "a.json" 2\nbash scripts/train/finetune.sh "$MIX" "3"\n'
    )
    _, stages, told = imported(tmp_path, capsys, str(outer))
    assert [(s["mixture"][0]["path"], s["epochs"]) for s in stages] == [("a.json", 2), ("b.json", 3)]
    assert f"{inner}/finetune.sh: " in told
    (inner / "finetune.sh").unlink()
    with pytest.raises(DataError, match=r"all.sh calls scripts/train/finetune.sh, which is not there; put it"):
        stages_of(outer)


def test_steps_of_warm_up_are_a_share_of_the_stage():
    flags = {"warmup_steps": 50, "max_steps": 1000, "warmup_ratio": 0.03}
    made = translate("llava", flags)
    assert made.keys["stage.warmup"] == 0.05 and made.needless["warmup_ratio"] == "warmup_steps wins"
    made = translate("ms-swift", {"warmup_steps": 50})
    assert made.missing["warmup_steps"].startswith("warmup is a share of the steps") and "50 / steps" in str(
        made.missing
    )
    assert translate("llama-factory", {"warmup_steps": 0, "warmup_ratio": 0.1}).keys["stage.warmup"] == 0.1


def test_llavas_own_config_has_a_scheduler_and_clips():
    """scripts/zero3_offload.json; the other two have neither."""
    said = {"deepspeed": "./scripts/zero3_offload.json", "lr_scheduler_type": "cosine", "warmup_ratio": 0.03}
    made = translate("llava", said)
    assert made.keys["stage.schedule"] == "constant" and made.keys["stage.clip"] == made.taken["stage.clip"] == 1.0
    assert made.keys["cluster.zero"] == 3 and made.keys["cluster.offload"] == "all"
    assert "takes its place" in made.needless["lr_scheduler_type"] and "logarithm" in made.differs["warmup"]
    made = translate("bunny", said | {"max_grad_norm": 0.5})
    assert made.keys["stage.clip"] == 0.5 and "max_grad_norm" in made.translated and not made.needless.keys() & {"clip"}
    made = translate("llava", said | {"deepspeed": "zero3.json"})
    assert made.keys["stage.schedule"] == "cosine" and "stage.clip" not in made.keys


def test_a_command_that_asks_the_model_is_none_that_trains(tmp_path):
    flags = said(
        tmp_path, "a.sh", "swift sft --model a/b --dataset c.json --lora_rank 4\nswift infer --model a/b --stream x\n"
    )
    assert flags == {"model": "a/b", "dataset": "c.json", "lora_rank": 4}


def test_nanovlm(tmp_path, capsys):
    (tmp_path / "e.py").write_text(NANO)
    job, (stage,), told = imported(tmp_path, capsys, str(tmp_path / "e.py"))
    assert (job["vision"], job["connector"]) == ("siglip2-base-512", "pixel-shuffle-4")
    assert stage["tune"]["vision"] == "frozen" and stage["tune"]["connector"] == {"mode": "full", "lr": 0.00512}
    assert stage["steps"] == 40000 and "epochs" not in stage and job["benchmarks"] == ["mmmu"]
    assert "ocrbench: not measured here" in told and "unknown: --vit_inter_dim (computed)" in told
    assert "differs: schedule (the rate falls to a tenth" in told


HF = {"schedule": "linear", "warmup": 0.0, "warmup_from": "zero", "weight_decay": 0.0, "lr": 5e-5, "epochs": 3.0}
"""transformers' TrainingArguments, 4.37.2 to 5.8.0, and the first step of its schedules."""
LLAVA = {**HF, "max_length": 512, "aspect": "square", "batch": 8, "clip": 1.0}
TUNED = {"vision": "frozen", "connector": "full", "llm": "full"}
FIRST_LORA = {"r": 64, "alpha": 16, "dropout": 0.05}
OWN = {
    # llava/train/train.py, llava/conversation.py
    "llava": ({}, {**LLAVA, "template": "vicuna", "tune": TUNED}),
    "llava deepspeed": (
        {"deepspeed": "scripts/zero3.json"},
        {k: v for k, v in LLAVA.items() if k != "clip"} | {"template": "vicuna", "tune": TUNED},
    ),
    "llava lora": (
        {"lora_enable": True},
        {**LLAVA, "template": "vicuna", "tune": TUNED | {"llm": {"lora": FIRST_LORA}}},
    ),
    "bunny": ({}, {**LLAVA, "template": "vicuna", "tune": TUNED}),
    # tinyllava/utils/arguments.py
    "tinyllava": ({}, {**LLAVA, "template": "plain", "tune": TUNED | {"llm": "frozen"}}),
    "tinyllava qlora": (
        {"tune_type_llm": "qlora", "tune_type_vision_tower": "partially-tune", "conv_version": "phi"},
        {
            **LLAVA,
            "template": "vicuna",
            "tune": {"vision": {"from": 10}, "connector": "full", "llm": {"lora": FIRST_LORA | {"bits": 8}}},
        },
    ),
    # src/llamafactory/hparams/
    "llama-factory": (
        {},
        {
            **HF,
            "max_length": 2048,
            "batch": 8,
            "clip": 1.0,
            "tune": {
                "vision": "frozen",
                "connector": "frozen",
                "llm": {"lora": {"r": 8, "alpha": 16, "dropout": 0.0, "targets": "all-linear"}},
            },
        },
    ),
    # swift/arguments/, swift/trainers/arguments.py
    "ms-swift": (
        {},
        {
            **HF,
            "schedule": "cosine",
            "lr": 1e-4,
            "weight_decay": 0.1,
            "betas": [0.9, 0.95],
            "batch": 16,
            "clip": 1.0,
            "tune": {
                "vision": "frozen",
                "connector": "frozen",
                "llm": {"lora": {"r": 8, "alpha": 32, "dropout": 0.05, "targets": "all-linear"}},
            },
        },
    ),
    # models/config.py, train.py
    "nanovlm": (
        {},
        {
            "schedule": "cosine",
            "warmup": 0.03,
            "warmup_from": "first",
            "weight_decay": 0.01,
            "steps": 40000,
            "max_length": 4096,
            "batch": 16,
            "clip": 1.0,
            "template": "chatml",
            "lr": 5e-5,
            "tune": {
                "vision": {"mode": "full", "lr": 5e-5},
                "connector": {"mode": "full", "lr": 0.00512},
                "llm": {"mode": "full", "lr": 5e-5},
            },
        },
    ),
}
"""A trainer, a few flags, and the stage with its own defaults for all others, as read in the named files."""


@pytest.mark.parametrize("case", OWN)
def test_what_a_script_leaves_out_is_as_the_trainer_has_it(case):
    flags, stage = OWN[case]
    made = translate(case.split()[0], flags)
    assert made.stage() == stage
    assert made.keys["seed"] == (0 if case == "nanovlm" else 42)
    told = [key for key, value in made.taken.items() if made.keys.get(key, value) != value]
    assert not told and not made.taken.keys() & flags.keys()


@pytest.mark.parametrize(
    ("name", "flags", "precision", "checkpointing"),
    [
        ("llava", {}, "fp32", False),
        ("tinyllava", {"fp16": True}, "fp16", False),
        ("llama-factory", {}, "bf16", True),
        ("llama-factory", {"finetuning_type": "full"}, "fp32", True),
        ("llama-factory", {"finetuning_type": "full", "bf16": True}, "bf16", True),
        ("ms-swift", {}, "bf16", True),
        ("ms-swift", {"torch_dtype": "float32", "gradient_checkpointing": False}, "fp32", False),
        ("nanovlm", {}, "bf16", None),
    ],
)
def test_precision_and_checkpointing_that_a_script_leaves_out(name, flags, precision, checkpointing):
    keys = translate(name, flags).keys
    assert (keys["cluster.precision"], keys.get("cluster.activation_checkpointing")) == (precision, checkpointing)


def test_defaults_follow_from_what_the_script_says():
    lora = {"lora": {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear"}}
    made = translate(
        "llama-factory", {"lora_rank": 4, "freeze_vision_tower": False, "freeze_multi_modal_projector": False}
    )
    assert made.stage()["tune"] == {"vision": lora, "connector": "frozen", "llm": lora}
    assert "projector is frozen" in made.missing["freeze_multi_modal_projector"]
    made = translate("llama-factory", {"finetuning_type": "full", "lora_rank": 4, "freeze_language_model": True})
    assert made.stage()["tune"] == {"vision": "frozen", "connector": "frozen", "llm": "frozen"}
    assert made.needless == {"lora_rank": "it acts with LoRA only"} and not any("lora" in key for key in made.taken)
    made = translate("ms-swift", {"freeze_vit": False, "freeze_llm": True, "vit_lr": 1e-5}, devices=4)
    assert made.stage()["tune"]["llm"] == "frozen" and made.stage()["tune"]["vision"]["lr"] == 1e-5
    assert made.stage()["tune"]["vision"]["lora"]["alpha"] == 32 and made.taken["gradient_accumulation_steps"] == 4
    assert translate("ms-swift", {"tuner_type": "full"}).keys["stage.lr"] == 1e-5
    assert translate("ms-swift", {"tuner_type": "full", "learning_rate": 3e-4}).keys["stage.lr"] == 3e-4
    assert "max_length" in translate("ms-swift", {}).differs and not translate("ms-swift", {"max_length": 8}).differs
    made = translate("llava", {"max_grad_norm": 0.5, "deepspeed": "zero2.json"})
    assert "stage.clip" not in made.keys and "no effect with deepspeed" in made.needless["max_grad_norm"]


def test_what_one_script_says_wins_over_what_another_leaves_out(tmp_path, capsys):
    (tmp_path / "a.sh").write_text(PRETRAIN.replace("--bf16 True", "--bf16 True --seed 7"))
    (tmp_path / "b.sh").write_text(FINETUNE.replace("--bf16 True", ""))
    job, _, told = imported(tmp_path, capsys, str(tmp_path / "a.sh"), str(tmp_path / "b.sh"))
    assert job["seed"] == 7 and job["cluster"]["precision"] == "bf16"
    assert "assumed, as that trainer does: tune.llm.lora.alpha: 16" in told
    assert "precision: fp32" not in told and "seed: 42" not in told


def test_bunny_is_told_from_llava_and_ms_swift(tmp_path):
    bunny = {"model_type": "phi-2", "mm_projector_type": "mlp2x_gelu", "tune_mm_mlp_adapter": True, "bits": 16}
    assert trainer_of(bunny, tmp_path) == "bunny"
    assert trainer_of({"model": "a/b", "model_type": "qwen2_vl", "dataset": "x"}, tmp_path) == "ms-swift"


@pytest.mark.parametrize(
    ("name", "text", "words", "why"),
    [
        ("a.sh", "echo hello", [], "has no flags; give the script that starts the training"),
        ("a.sh", "x --foo 1", [], "no flag tells whose it is; give --trainer: llava, bunny, "),
        ("a.sh", PRETRAIN, ["--trainer", "lava"], "no trainer 'lava'; did you mean 'llava'?"),
        ("a.sh", PRETRAIN.replace("lmsys/vicuna-7b-v1.5", "a/b"), [], "give --llm NAME"),
        ("a.sh", PRETRAIN.replace("--data_path ./data/558k.json", ""), [], "the script names no data; give --data"),
        ("a.sh", PRETRAIN.replace("--learning_rate 1e-3", "--learning_rate fast"), [], "lr: must be a number"),
        ("a.py", "class A(:", [], "not Python"),
        ("a.sh", PRETRAIN, ["--gpus", "0"], "--gpus 0: give how many"),
        ("a.sh", PRETRAIN + FINETUNE, [], "has 2 commands that train; give a script for each"),
    ],
)
def test_what_cannot_be_translated_is_one_line_and_writes_nothing(tmp_path, capsys, name, text, words, why):
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as e:
        imported(tmp_path, capsys, str(tmp_path / name), *words)
    assert why in str(e.value.code) and "\n" not in str(e.value.code)
    assert not (tmp_path / "job.yaml").exists()


def test_a_part_is_found_by_hub_id_folder_or_name():
    assert known_name("llm", "microsoft/phi-2") == known_name("llm", "/models/phi-2/") == "phi-2"
    assert known_name("vision", "google/siglip-so400m-patch14-384") == "siglip-so400m-384"
    assert known_name("llm", "nobody/nothing") is None
    with pytest.raises(DataError, match="cannot be read"):
        flags_of(Path("/nowhere/x.sh"))
    with pytest.raises(SpecError):
        translate("nobody", {})


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
