"""Two steps of every stage of every shipped recipe, one process, the real engine. Prints one JSON line per stage run.

    REMORA_CATALOG=<folder with tiny-clip and tiny-llama> python recipes.py <run folder>

The run folder holds, below data/, a few records of every dataset.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from PIL import Image

from remora import catalog
from remora.inference import Answerer, Bundle, Message, Request, write_bundle
from remora.runs import Store, path, resolve_stages
from remora.spec import Cluster, Variant
from remora.training import stage
from remora.training.journal import read

CONNECTORS = {"mobilevlm-v2": "ldpv2"}


def main() -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group("gloo")
    store = Store(Path(sys.argv[1]))
    for recipe in catalog.entries("recipes"):
        parts = {"vision": "tiny-clip", "connector": CONNECTORS.get(recipe, "mlp2x_gelu"), "llm": "tiny-llama"}
        plain = Variant(**parts, recipe=recipe)
        short = {s.name: {"steps": 2, "batch": 2, "lr": 1e-2} for s in resolve_stages(plain)}
        variant = plain.model_copy(update={"overrides": short})
        lineage = path(variant, store.data)
        for run in lineage:
            if store.finished(run):
                continue
            stage.run(store.prepare(run, Cluster(zero=2, micro_batch=2)))
            events = list(read(store.journal(run)))
            store.publish(run.name, {})
            print(json.dumps({"recipe": recipe, "stage": run.stage.name, "events": events}), flush=True)
        bundle = store.runs / "bundles" / recipe
        last = lineage[-1].stage
        write_bundle(bundle, Bundle(recipe, store.parts(lineage), last.template, last.aspect, 0), {})
        picture = Image.new("RGB", (50, 30), "red")
        (answer,) = Answerer.load(bundle).answer([Request([Message("user", "What is this?", (picture,))], 3)])
        print(json.dumps({"recipe": recipe, "tokens": answer.prompt_tokens}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
