"""LoRA adapters: trained with peft, saved in peft's layout, merged when a part is loaded.

    adapter_config.json          rank, alpha, targets
    adapter_model.safetensors    base_model.model.<layer>.lora_A.weight [r, in], .lora_B.weight [out, r]

Source: Hu et al., "LoRA" (arXiv 2106.09685): W x + (alpha / r) B A x, with A drawn as Kaiming uniform and B zero. The
quantised base is QLoRA's (arXiv 2305.14314): NF4 or int8 while training; the adapter is merged into the full weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from remora.errors import DataError, SpecError, nearest
from remora.model.split import shape_of, whole
from remora.spec import ALL_LINEAR, Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
NAME = "default"


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The part's linear layers by name, except the language model's head."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None  # type: ignore[operator]
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear) and m is not head}


def target_layers(part: str, module: nn.Module, lora: Lora) -> list[str]:
    """Names of the layers that get an adapter: those whose last dotted components match a target.

    Raises:
        SpecError: a target matches no linear layer, or the part has none.
    """
    layers = linear_layers(module)
    if not layers:
        raise SpecError(f"tune.{part}: lora adapts linear layers, and this {part} has none; train it full, or last: n")
    if not lora.targets:
        return list(layers)
    for target in lora.targets:
        if not any(_ends(name, target) for name in layers):
            endings = dict.fromkeys(n.rpartition(".")[2] for n in layers)
            raise SpecError(
                f"tune.{part}: lora target {target!r} is not a linear layer{nearest(target, endings)}; "
                f"{part} has {', '.join(endings)}, and {ALL_LINEAR} for all of them"
            )
    return [name for name in layers if any(_ends(name, target) for target in lora.targets)]


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def add_adapter(part: str, module: nn.Module, lora: Lora, seed: int) -> None:
    """Add adapters to the part's linear layers, in place; only they train. The seed initialises A; B starts at zero.

    Raises:
        SpecError: a target does not exist, or bits are given and bitsandbytes is not installed.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = target_layers(part, module, lora)
    if lora.bits:
        _quantise(part, module, targets, lora.bits)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, module, adapter_name=NAME)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    for name, child in module.named_modules():
        if name.endswith(f"lora_dropout.{NAME}"):
            child.train()  # also in an encoder, whose modules stay in eval mode


def _quantise(part: str, module: nn.Module, targets: list[str], bits: int) -> None:
    """Quantise the weights of the named layers to 4 (NF4) or 8 bits, in place."""
    try:
        import bitsandbytes as bnb
    except ImportError:
        raise SpecError(
            f"tune.{part}: bits: {bits} needs bitsandbytes, which is not installed; "
            "next: pip install 'remora[quantized]', or leave bits out"
        ) from None
    for name in targets:
        old = module.get_submodule(name)
        assert isinstance(old, nn.Linear)
        shape = (old.in_features, old.out_features, old.bias is not None)
        new: nn.Module
        if bits == 4:
            new = bnb.nn.Linear4bit(*shape, compute_dtype=old.weight.dtype, quant_type="nf4")
            new.weight = bnb.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
            # On CPUs with AVX512-BF16, a pass in eval mode would permanently re-pack the weight into a layout that has
            # no backward and rounds to bf16. Without that, losses are equal on all CPUs and training can follow eval.
            new.support_avx512bf16_for_cpu = False
        else:
            new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(old.weight.data, requires_grad=False, has_fp16_weights=False)
        new.bias = old.bias
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, new.to(old.weight.device))  # this move quantises it
    setattr(module, f"is_loaded_in_{bits}bit", True)  # tells peft which kind of adapter to use


def save_adapter(state: Mapping[str, Tensor], lora: Lora, folder: Path) -> None:
    """Write `state`, an adapter's tensors by the part's names, in peft's layout."""
    tensors = {PREFIX + n.replace(f".{NAME}.", "."): t.contiguous() for n, t in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    targets = sorted({n.partition(".lora_")[0] for n in state})
    about = {"peft_type": "LORA", "r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    about |= {"target_modules": targets, "bias": "none", "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(about, indent=1))


def merge_adapter(module: nn.Module, folder: Path) -> None:
    """Merge the adapter of a folder into the weights of a part, in place and in fp32: W + (alpha / r) B A.

    Raises:
        DataError: it belongs to another model: a layer does not exist or has another shape.
    """
    about = json.loads((folder / CONFIG).read_text())
    tensors = load_file(folder / WEIGHTS)
    scale = about["lora_alpha"] / about["r"]
    layers = linear_layers(module)
    for key in [k for k in tensors if k.endswith(".lora_A.weight")]:
        name = key.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        a, b = tensors[key].float(), tensors[key.replace("lora_A", "lora_B")].float()
        weight = layers[name].weight if name in layers else None
        if weight is None or shape_of(weight) != (b.shape[0], a.shape[1]):
            found = "does not exist" if weight is None else f"has shape {tuple(shape_of(weight))}"
            raise DataError(f"{folder}: its layer {name} {found} in this model; the adapter was made for another one")
        with torch.no_grad(), whole([weight], written=True):
            weight += (scale * (b @ a)).to(weight)
