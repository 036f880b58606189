"""Each private name of torch that tracing uses does what it is used for: a new torch that moves one fails here."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from remora.training import torch_private as private
from remora.training.live import tensors_in

PACKAGE = Path(private.__file__).parents[1]


def test_fake_tensors_have_shapes_and_no_memory() -> None:
    with private.FakeTensorMode(allow_non_fake_inputs=True):
        made = torch.empty(1 << 40) + 1  # 4 TiB
        assert isinstance(made, private.FakeTensor) and made.untyped_storage().nbytes() == 4 << 40
        with private.unset_fake_temporarily():
            real = torch.ones(2)
    assert not isinstance(real, private.FakeTensor) and real.sum() == 2


def test_the_fake_mode_is_seen_while_it_lasts() -> None:
    assert not private.tracing()
    with private.FakeTensorMode():
        assert private.tracing()
        with private.unset_fake_temporarily():
            assert not private.tracing()
    assert not private.tracing()


def test_a_dispatch_mode_sees_every_operation_of_both_passes() -> None:
    seen: list[str] = []

    class Seeing(private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert isinstance(func, type(torch.ops.aten.mm.default))
            seen.append(str(func.overloadpacket))
            return func(*args, **(kwargs or {}))

    weight = torch.ones(2, 2, requires_grad=True)
    with Seeing():
        (weight @ torch.ones(2, 2)).sum().backward()
    assert seen.count("aten.mm") == 2 and "aten.sum" in seen


def test_tensors_of_nested_values_are_found() -> None:
    one, two, three = torch.ones(3)
    found = list(tensors_in(((one, [two]), {"a": three, "b": "no tensor"})))
    assert len(found) == 3 and all(a is b for a, b in zip(found, (one, two, three), strict=True))


def test_a_storage_is_one_object_as_long_as_it_lives() -> None:
    tensor, other = torch.zeros(4), torch.zeros(4)
    view = tensor[1:].view(3)
    assert tensor.untyped_storage() is view.untyped_storage()
    assert tensor.untyped_storage() is not other.untyped_storage()
    number = id(tensor.untyped_storage())
    del tensor
    assert id(view.untyped_storage()) == number


def test_modules_stay_what_they_are() -> None:
    layer = nn.Linear(2, 2)
    with private.in_place():
        assert layer.to(torch.float64) is layer and layer.weight.dtype == torch.float32
    assert layer.to(torch.float64).weight.dtype == torch.float64


def test_no_other_module_uses_a_private_name_of_torch() -> None:
    found = re.compile(r"\b_(subclasses|python_dispatch|pytree|cdata|ops|C)\b")
    users = {p.name for p in PACKAGE.rglob("*.py") if found.search(p.read_text())}
    assert users == {"torch_private.py"}
