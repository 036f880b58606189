"""A stage trains exactly what it says: gradients, the table, the optimiser's groups."""

from __future__ import annotations

import pytest
import torch

from remora.batch import Batch
from remora.errors import SpecError
from remora.model.tuning import freeze_and_train, parameter_groups, tuning_table
from remora.spec import Stage, Tuning
from remora.token_ids import IGNORE, IMAGE


def stage(**tune) -> Stage:
    rates = {"lr": 1e-3, "weight_decay": 0.1, "steps": 1, "mixture": ["x"], "name": "s"}
    return Stage.model_validate({**rates, "tune": tune})


def batch() -> Batch:
    ids = torch.tensor([[5, IMAGE, IMAGE, 7, 8, 9]])
    labels = torch.tensor([[IGNORE, IGNORE, IGNORE, IGNORE, 8, 9]])
    return Batch(
        ids,
        torch.ones_like(ids),
        labels,
        torch.rand(1, 3, 4, 4),
        torch.arange(len(ids)),
        torch.zeros(1, dtype=torch.long),
    )


def learnt(model) -> set[str]:
    model(batch()).backward()
    return {n for n, p in model.named_parameters() if p.grad is not None}


def names(model, *beginnings) -> set[str]:
    return {n for n, _ in model.named_parameters() if n.startswith(beginnings)}


CASES = {
    "align": ({}, ("connector.",)),
    "finetune": ({"llm": "full"}, ("connector.", "llm.")),
    "everything": ({"vision": "full", "llm": "full"}, ("",)),
    "vision last": ({"vision": {"last": 1}}, ("vision.blocks.2.", "vision.norm.", "connector.")),
    "vision from": ({"vision": {"from": 1}}, ("vision.blocks.1.", "vision.blocks.2.", "vision.norm.", "connector.")),
    "vision from 0": ({"vision": {"from": 0}}, ("vision.blocks.", "vision.norm.", "connector.")),
    "llm last": ({"connector": "frozen", "llm": {"last": 1}}, ("llm.model.layers.1.", "llm.model.norm.")),
    "llm all blocks": ({"llm": {"last": 2}}, ("llm.model.layers.", "llm.model.norm.", "connector.")),
}


@pytest.mark.parametrize(("tune", "trains"), CASES.values(), ids=CASES)
def test_exactly_the_chosen_parameters_get_gradients(tune, trains, tiny_model):
    freeze_and_train(tiny_model, Tuning.model_validate(tune))
    assert {n for n, p in tiny_model.named_parameters() if p.requires_grad} == names(tiny_model, *trains)
    assert learnt(tiny_model) == names(tiny_model, *trains)


@pytest.mark.parametrize(("tune", "trains"), CASES.values(), ids=CASES)
def test_the_table_says_so_in_numbers(tune, trains, tiny_model):
    spec = stage(**tune)
    freeze_and_train(tiny_model, spec.tune)
    for row in tuning_table(tiny_model, spec):
        sizes = {n: p.numel() for n, p in tiny_model.named_parameters() if n.startswith(f"{row.part}.")}
        assert row.parameters == sum(sizes.values())
        assert row.trained == sum(size for n, size in sizes.items() if n.startswith(trains))
        assert row.lr == (1e-3 if row.trained else None)
        assert row.mode.split()[0] == spec.tune[row.part].mode


def test_an_earlier_stages_freezing_does_not_last(tiny_model):
    freeze_and_train(tiny_model, Tuning.model_validate({"vision": "full", "connector": "frozen"}))
    freeze_and_train(tiny_model, Tuning.model_validate({}))
    assert learnt(tiny_model) == names(tiny_model, "connector.")


def test_frozen_parts_and_every_encoder_are_in_eval_mode(tiny_model):
    freeze_and_train(tiny_model, Tuning.model_validate({"vision": "full"}))
    assert tiny_model.connector.training
    assert not tiny_model.llm.training and not any(m.training for m in tiny_model.vision.modules())
    tiny_model.train()  # as DeepSpeed and Trainers do
    assert not any(m.training for m in tiny_model.vision.modules())


@pytest.mark.parametrize("part", ["vision", "llm"])
@pytest.mark.parametrize("wanted", [{"last": 99}, {"last": 0}, {"from": 99}, {"from": 3}])
def test_blocks_that_a_part_does_not_have_are_refused(part, wanted, tiny_model):
    blocks = 3 if part == "vision" else 2
    with pytest.raises(SpecError) as caught:
        freeze_and_train(tiny_model, Tuning.model_validate({part: wanted}))
    (mode, n) = next(iter(wanted.items()))
    assert str(caught.value).startswith(f"tune.{part}: {{{mode}: {n}}} leaves nothing")
    assert str(caught.value).endswith(f"{part} has blocks 0 to {blocks - 1}")


def test_groups_hold_each_trained_parameter_once_with_its_own_rate_and_decay(tiny_model):
    spec = stage(vision={"last": 1, "lr": 1e-5, "weight_decay": 0.5}, llm={"mode": "full", "lr": 2e-4})
    freeze_and_train(tiny_model, spec.tune)
    groups = parameter_groups(tiny_model, spec)
    grouped = [p for g in groups for p in g["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in tiny_model.parameters() if p.requires_grad}
    rates = {g["part"]: g["lr"] for g in groups}
    assert rates == {"vision": 1e-5, "connector": 1e-3, "llm": 2e-4}
    for group in groups:
        matrices = {p.ndim > 1 for p in group["params"]}
        assert len(matrices) == 1
        own = 0.5 if group["part"] == "vision" else 0.1
        assert group["weight_decay"] == (own if matrices == {True} else 0.0)
    torch.optim.AdamW(groups)


def test_a_text_only_stage_has_one_row(tiny_model):
    tiny_model.vision = tiny_model.connector = None
    spec = stage(vision="absent", connector="absent", llm="full")
    freeze_and_train(tiny_model, spec.tune)
    (row,) = tuning_table(tiny_model, spec)
    assert row.part == "llm" and row.trained == row.parameters
    assert {g["part"] for g in parameter_groups(tiny_model, spec)} == {"llm"}
