"""Compare vLLM's greedy tokens with Remora's. Tiny random models are exported and served by vLLM.

vLLM pins its own torch and transformers, so it needs a separate environment:

    make vllm
    python benchmarks/vllm_tokens.py

Every model is asked the same questions through vLLM's chat (chat template, processor and picture preprocessing are the
exported ones) and through Remora's prompter and model, both in fp32. The table goes to the terminal and to
benchmarks/results/. Not part of CI: the environment is 2 GB, and a model takes half a minute to start.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAIRS = [
    *(("native", v, m) for v in ("clip", "siglip") for m in ("llama", "qwen2", "phi3")),
    *(("transformers", *pair) for pair in (("siglip", "phi"), ("siglip", "stablelm"), ("dinov2", "llama"))),
]
"""(vLLM's implementation, tower, language model). vLLM's own llava class takes the first six."""
NEW = 16
QUESTIONS = ("What is in the picture?", "Is it red or blue?\nOne word.")
TEXT = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2, "num_hidden_layers": 2}
TEXT |= {
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 320,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 3}


def pictures() -> list[Any]:
    from PIL import Image

    return [Image.effect_mandelbrot((60 + 9 * i, 48), (-2 + i / 3, -1.5, 1, 1.5), 20).convert("RGB") for i in range(3)]


def build(vision: str, llm: str, folder: Path) -> list[dict[str, Any]]:
    """Export a random model to `folder`; returns what Remora answers: prompt and new token ids of every question."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from remora import catalog
    from remora.catalog import Vision
    from remora.data.conversation import Turn
    from remora.exchange.stock_llava import write_llava
    from remora.exchange.tower import module_of
    from remora.inference.exporting import stock_chat
    from remora.model.connectors import build_connector
    from remora.model.llm import train_tokenizer
    from remora.model.vision import build_tower
    from remora.model.vlm import VisionLanguageModel
    from remora.reading.images import preprocess
    from remora.reading.prompt import Prompter
    from remora.token_ids import IMAGE

    kinds = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "dinov2": "dinov2"}
    shape = {k: v for k, v in SHAPE.items() if vision != "dinov2" or k != "intermediate_size"}
    entry = Vision(
        short=vision,
        loader="transformers",
        hub=f"tiny/{vision}",
        config={"model_type": kinds[vision], "image_size": 32, "patch_size": 8, **shape},
        image_size=32,
        tokens=16,
        width=64,
        blocks=3,
        layer=-2,
        prefix=0 if vision == "siglip" else 1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fit="stretch" if vision == "siglip" else "crop",
        parameters=1,
        licence="none",
        source="random",
    )
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*QUESTIONS, catalog.template("vicuna").system] * 2, TEXT["vocab_size"])
    text = AutoModelForCausalLM.from_config(AutoConfig.for_model(llm, bos_token_id=None, **TEXT)).eval()
    connector = build_connector(catalog.connector("mlp2x_gelu"), 64, TEXT["hidden_size"])
    model = VisionLanguageModel(text, build_tower(entry, pretrained=False), connector, 32, 16).eval()
    with torch.no_grad():  # larger than the initial values, so that the picture decides the answer
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape) * p[0].numel() ** -0.5 * 1.5)
            elif "bias" in name and "lm_head" not in name:
                p.copy_(torch.randn(p.shape) * 0.3)
    prompter = Prompter(catalog.template("vicuna"), tokenizer, 16)
    chat, reason = stock_chat(prompter)
    assert chat, reason
    tower = module_of(model.vision)
    write_llava(
        folder,
        encoder=entry,
        vision_config=tower.config,
        vision_state=tower.state_dict(),
        connector_state=connector.state_dict(),
        llm=text,
        tokenizer=tokenizer,
        chat=chat,
        stop=prompter.stop,
    )
    answers = []
    for picture in pictures():
        for question in QUESTIONS:
            ids = torch.tensor([prompter.encode([Turn("user", question, 1)]).ids])
            with torch.no_grad():
                embeddings = model.embed(ids, preprocess(picture, entry)[None])
                said = text.generate(inputs_embeds=embeddings, max_new_tokens=NEW, do_sample=False)
            token = json.loads((folder / "config.json").read_text())["image_token_index"]
            answers.append({"prompt": [token if i == IMAGE else i for i in ids[0].tolist()], "new": said[0].tolist()})
    return answers


def serve(folder: str, implementation: str) -> None:
    """Runs under vLLM's Python: answer every question, print the ids as the last line."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=256, model_impl=implementation, seed=0)
    answers = []
    for picture in pictures():
        file = io.BytesIO()
        picture.save(file, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        for question in QUESTIONS:
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
            (out,) = llm.chat(
                [{"role": "user", "content": content}],
                SamplingParams(temperature=0, max_tokens=NEW),
                use_tqdm=False,
            )
            answers.append({"prompt": list(out.prompt_token_ids), "new": list(out.outputs[0].token_ids)})
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


def compare(python: str, implementation: str, vision: str, llm: str) -> str:
    """One row of the table: how many prompts and answers are the same."""
    with tempfile.TemporaryDirectory() as tmp:
        ours = build(vision, llm, Path(tmp) / "model")
        env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
        asked = [python, __file__, "--serve", str(Path(tmp) / "model"), implementation]
        done = subprocess.run(asked, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"| {vision} + {llm} | {implementation} | failed | {reason[:160]} |"
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    same = {k: sum(a[k] == b[k] for a, b in zip(ours, theirs, strict=True)) for k in ("prompt", "new")}
    distinct = len({tuple(a["new"]) for a in ours})
    return (
        f"| {vision} + {llm} | {implementation} | {same['prompt']} of {len(ours)} | {same['new']} of {len(ours)} "
        f"({distinct} distinct) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", default=".venv-vllm/bin/python", metavar="PYTHON", help="the Python that has vLLM")
    args = parser.parse_args()
    asked = "import vllm, torch, transformers as t; print(vllm.__version__, torch.__version__, t.__version__)"
    said = subprocess.run([args.vllm, "-c", asked], capture_output=True, text=True, check=True).stdout
    vllm, torch, transformers = said.strip().splitlines()[-1].split()
    rows = [
        f"{datetime.date.today()}: vLLM {vllm} (torch {torch}, transformers {transformers}), fp32 on a CPU; "
        f"{len(QUESTIONS) * len(pictures())} questions a model, {NEW} greedy tokens each.",
        "",
        "| model | vLLM's implementation | same prompt tokens | same new tokens |",
        "| --- | --- | --- | --- |",
    ]
    for pair in PAIRS:
        rows.append(compare(args.vllm, *pair))
        sys.stderr.write(rows[-1] + "\n")
    table = "\n".join(rows) + "\n"
    (Path(__file__).parent / "results" / "vllm_tokens.md").write_text(table)
    sys.stdout.write(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:4])
    else:
        main()
