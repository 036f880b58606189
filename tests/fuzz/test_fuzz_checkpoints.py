"""Any content of a folder to import is read, or refused in one line; no code runs, and memory stays bounded.

make fuzz ARGS=tests/fuzz/test_fuzz_checkpoints.py
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

import pytest
import torch
from cases import cases
from safetensors.torch import save

from remora.errors import RemoraError
from remora.exchange.layouts import PublishedCheckpoint, read_published
from remora.inference.importing import import_checkpoint
from support.exchange_fake import tiny_vlm
from support.exchange_layouts import factory, llava_hf, original

VALUES = [
    *(None, True, False, 0, 1, -1, 7, 2**31, 10**9, 10**400, -(10**30), 0.5, -0.0, float("nan"), float("inf")),
    *("", "x", "pad", "anyres", "patch", "cls_patch", "default", "linear", "mlp2x_gelu", "mlp0x_gelu", "mlp99x_gelu"),
    *(
        "../../etc",
        "/",
        "a/b",
        "é\u2028\n",
        "x" * 5000,
        "\0",
        "\ud800",
        "llama",
        "clip_vision_model",
        "float16",
        "gelu",
    ),
    *([], {}, [1], [-2, -1], [[]], {"a": {}}, {"model_type": "llama"}, {"rope_type": "default"}, {"factor": 0}),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64]
NAMES = [
    "",
    ".",
    "model.",
    "lm_head.weight",
    "module.x",
    "base_model.model.x",
    "x.lora_A.weight",
    "model.mm_projector.0.weight",
]


class Touch:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Whole checkpoints of every layout, a few kilobytes each, and their tensors."""
    root = tmp_path_factory.mktemp("sources")
    model, tokenizer = tiny_vlm("clip", "llama")
    made = [
        llava_hf(root / "hf", model, tokenizer, "clip", "llama"),
        factory(root / "factory", model, tokenizer, "clip", "llama"),
        original(root / "llava", model, tokenizer, "clip", "llama", "llava_llama"),
    ]
    from safetensors.torch import load_file

    return [
        (folder, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))
        for folder in made
    ]


def spoil_config(rng, config):
    """Some keys are taken away, set to anything, or made up; also inside."""
    config = json.loads(json.dumps(config))
    for _ in range(rng.randint(0, 3)):
        inner = rng.choice([config, *(v for v in config.values() if isinstance(v, dict) and v)])
        known = [
            *inner,
            "mm_use_im_start_end",
            "mm_patch_merge_type",
            "image_aspect_ratio",
            "quantization_config",
            "s2",
        ]
        key = rng.choice([*known, "x", "num_experts", "mm_tunable_parts", "mm_vision_select_layer"])
        if rng.random() < 0.25:
            inner.pop(key, None)
        else:
            inner[key] = rng.choice(VALUES)
    return config


def spoil_tensors(rng, tensors):
    """Some tensors are missing, misnamed, of another type or shape, or not numeric."""
    tensors = dict(tensors)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        name = rng.choice(sorted(tensors))
        tensor, what = tensors[name], rng.randint(0, 8)
        if what == 0:
            tensors.pop(name)
        elif what == 1:
            tensors[rng.choice(NAMES) + rng.choice(["", name])] = tensor
        elif what == 2:
            tensors[name] = tensor.to(rng.choice(DTYPES))
        elif what == 3:
            tensors[name] = rng.choice([tensor.flatten(), tensor[:1], tensor[None], torch.ones(0), torch.tensor(1.0)])
        elif what == 4 and tensor.is_floating_point() and tensor.numel():
            spoilt = tensor.clone().flatten()
            spoilt[rng.randrange(len(spoilt))] = rng.choice([float("nan"), float("inf"), -float("inf")])
            tensors[name] = spoilt.reshape(tensor.shape)
        elif what == 5:
            tensors[f"module.{name}"] = tensors.pop(name)
        elif what == 6:
            pair = name.removesuffix(".weight")
            tensors |= {f"{pair}.lora_A.weight": torch.ones(2, 32), f"{pair}.lora_B.weight": torch.ones(32, 2)}
        elif what == 7:
            tensors[f"{name}.absmax"] = torch.ones(3)
    return {k: v.clone().contiguous() for k, v in tensors.items()}


def torn(rng, data: bytes) -> bytes:
    """Bytes as a broken copy leaves them."""
    what = rng.randint(0, 4)
    if what == 0:
        return data[: rng.randrange(len(data) + 1)]
    if what == 1:
        return struct.pack("<Q", rng.choice([0, 1, 2**20, 2**40, 2**63])) + data[8:]
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        spoilt[rng.randrange(min(len(spoilt), 4000))] = rng.randrange(256)
    return bytes(spoilt)


def write_case(rng, folder, config, tensors, touched):
    """A folder that a user may have."""
    folder.mkdir()
    text = json.dumps(config)
    if rng.random() < 0.1:
        text = rng.choice([text[: rng.randrange(len(text))], "[" * 100_000, "[]", "7", "", "{}", "\0", '{"a": NaN}'])
    (folder / "config.json").write_text(text, errors="surrogatepass")
    form = rng.randint(0, 11)
    if form <= 3:
        (folder / "model.safetensors").write_bytes(save(tensors))
    elif form == 4:
        (folder / "model.safetensors").write_bytes(torn(rng, save(tensors)))
    elif form == 5:
        held = rng.choice(
            [tensors, {"state_dict": tensors}, {"module": {"a": 1}}, [], 7, {"x": Touch(touched)}, {3: 4}]
        )
        torch.save(held, folder / "pytorch_model.bin")
        if rng.random() < 0.3:
            file = folder / "pytorch_model.bin"
            file.write_bytes(torn(rng, file.read_bytes()))
    elif form == 6:
        torch.save({"x": torch.ones(1).expand(rng.choice([2, 2**40]))}, folder / "pytorch_model.bin")
    elif form == 7:
        (folder / "model-00001-of-00001.safetensors").write_bytes(save(tensors))
        file = rng.choice(["model-00001-of-00001.safetensors"] * 4 + ["../x", "/dev/zero", "", ".", "é", 7, None, []])
        said = rng.choice([{"weight_map": dict.fromkeys(tensors, file)}] * 4 + [{}, {"weight_map": rng.choice(VALUES)}])
        (folder / "model.safetensors.index.json").write_text(json.dumps(said))
    elif form == 8:
        target = rng.choice(
            [folder / "model.safetensors", folder, Path("/dev/zero"), folder / "nowhere", Path("/etc/hostname")]
        )
        (folder / "model.safetensors").symlink_to(target)
    elif form == 9:
        for name in ("language_model", "vision_tower", "connector"):
            if rng.random() < 0.9:
                (folder / name).mkdir()
                some = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)}
                (folder / name / "model.safetensors").write_bytes(save(some))
    elif form == 10:
        (folder / "base").mkdir()
        (folder / "base/model.safetensors").write_bytes(save(tensors))
        about = {"peft_type": "LORA", "lora_alpha": 8, "base_model_name_or_path": str(folder / "base")}
        for _ in range(rng.randint(0, 2)):
            about[rng.choice([*about, "use_dora", "alpha_pattern", "use_rslora"])] = rng.choice(
                [v for v in VALUES if v != "a/b"]  # the one that looks like a hub id
            )
        (folder / "adapter_config.json").write_text(json.dumps(about))
        name = "base_model.model." + rng.choice(sorted(tensors)).removesuffix(".weight")
        rank = rng.randint(0, 3)
        halves = {f"{name}.lora_A.weight": torch.ones(rank, 32), f"{name}.lora_B.weight": torch.ones(32, rank)}
        (folder / "adapter_model.safetensors").write_bytes(save(halves))
    else:
        name = rng.choice(["mm_projector.bin", "latest", "x.gguf", "checkpoint-7", "non_lora_trainables.bin", "x.pth"])
        if name == "checkpoint-7":
            (folder / name).mkdir()
        else:
            torch.save({k: v for k, v in tensors.items() if "mm_projector" in k}, folder / name)


def allowed(folder, read):
    """What `read` gives, or None where it refuses in one line."""
    try:
        return read()
    except RemoraError as e:
        said = str(e)
        assert said and len(said.splitlines()) == 1 and len(said) < 2000, said
        return None


def test_any_folder_is_read_or_refused_in_one_line(sources, tmp_path):
    read = 0
    for case in range(cases(1200)):
        rng = random.Random(case)
        _, config, tensors = rng.choice(sources)
        folder, touched = tmp_path / "in", tmp_path / "touched"
        write_case(rng, folder, spoil_config(rng, config), spoil_tensors(rng, tensors), touched)
        on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
        found = allowed(folder, lambda folder=folder: read_published(folder))
        assert not touched.exists(), f"case {case} ran code"
        if isinstance(found, PublishedCheckpoint):
            read += 1
            parts = [t for part in (found.llm, found.vision, found.connector) for t in part.values()]
            stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in parts}
            assert sum(stored.values()) <= 8 * on_disk + 4096, f"case {case}"
            assert all(bool(torch.isfinite(t).all()) for t in parts if t.is_floating_point()), f"case {case}"
        shutil.rmtree(folder)
    assert read > cases(1200) // 20, "most were refused before they were looked at"


def test_whole_imports_end_in_a_bundle_or_in_one_line(sources, tmp_path, monkeypatch):
    """The slow half: models are built from spoilt configs. Few, and all of them full loads."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from remora import catalog

    for case in range(cases(1200) // 50):
        rng = random.Random(case)
        source, config, tensors = rng.choice(sources)
        folder = tmp_path / "in"
        shutil.copytree(source, folder)
        (folder / "config.json").write_text(json.dumps(spoil_config(rng, config)))
        (folder / "model.safetensors").write_bytes(save(spoil_tensors(rng, tensors) if rng.random() < 0.5 else tensors))
        if rng.random() < 0.2:
            file = folder / rng.choice(["tokenizer.json", "tokenizer_config.json"])
            file.write_bytes(torn(rng, file.read_bytes()))
        names = {"vision": "clip-l-336", "llm": "tinyllama-1.1b-chat"} if rng.random() < 0.1 else {}
        assert catalog.entries("llm")
        allowed(folder, lambda folder=folder, names=names: import_checkpoint(folder, tmp_path / "out", **names))
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
