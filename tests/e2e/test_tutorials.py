"""The tutorials, followed word for word from an empty home folder, with small data and few steps, without a network.

A page is one of mkdocs.yml's tutorials. Each of its commands is given here or has a reason below why not; a new command
runs, and so fails if it cannot.
"""

from __future__ import annotations

import csv
import inspect
import json
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

from remora import catalog
from remora.cli import parser
from remora.runs import Store
from support.ports import free_port
from support.tiny import write_records
from support.tutorials import DOCS, ROOT, Reader, blocks, commands

NETWORK, GPU, ENDLESS = "installs or downloads", "needs a GPU", "runs until Ctrl-C"
DEMO_DATA = "tests/demo makes this data; here it is made by hand"
ON_RAY = "tests/e2e/test_story.py trains on Ray; your-pictures.md trains the same job without"
CLUSTER = "needs a cluster; `test_rays_commands_are_accepted_by_ray` parses it"
SERVED = "serving-a-team.md serves and asks"
GIVEN = "your-pictures.md has it, too"
LEFT_OUT = {
    "start.md": {
        "git clone … && cd remora": NETWORK,
        "make setup": NETWORK,
        ". .venv/bin/activate": NETWORK,
        "remora data demo": DEMO_DATA,
        "remora data check mine.yaml": GIVEN,
        "remora plan mine.yaml": GIVEN,
        "remora data show mine.yaml --html mine.html": GIVEN,
        "remora train mine.yaml": ON_RAY,
        "remora train mine.yaml --set finetune.lr=1e-4 --set cluster.workers=1 --set name=mine-slow": ON_RAY,
        "remora serve base-Eff-2M-mlp": SERVED,
        "remora promote base-Eff-2M-mlp": "serving-a-team.md has it, too",
    },
    "demo.md": {
        "make demo": "eight minutes; tests/e2e/test_story.py runs a small one",
        "remora demo --keep": "eight minutes; tests/e2e/test_story.py runs a small one",
        "remora data demo --styles": NETWORK,
        "remora evaluate share-Eff-2M-res --benchmarks demo-styles": "the whole demo's model",
        "remora demo --photos": NETWORK,
        "remora demo --photos --stamps FILE.deb": "ten minutes; tests/demo/test_photo_data.py has stamps of its own",
        "remora data demo --photos": NETWORK,
        "remora ui": f"{ENDLESS}; tests/commands/test_ui_command.py",
        "remora serve": SERVED,
    },
    "your-pictures.md": {
        "remora data demo": DEMO_DATA,
        "remora serve base-Eff-2M-mlp": SERVED,
        "export REMORA_KEY=…": SERVED,
        "remora chat --image photos/kitchen-01.jpg": SERVED,
    },
    "smollm2.md": {"remora data demo": DEMO_DATA, "remora train jobs/smollm2.yaml": NETWORK},
    "first-gpu-run.md": {
        "remora doctor": "ends with 1 where a port is in use; tests/commands/test_doctor.py",
        "remora plan gpu.yaml --gpu h100 --gpus 8 --set 'cluster={auto: true, precision: bf16}'": (
            "a minute; tests/commands/test_plan_sizing.py"
        ),
        "remora plan gpu.yaml --calibrate": GPU,
        "remora train gpu.yaml --max-hours 12": GPU,
        "remora train gpu.yaml --set cluster.micro_batch=1": GPU,
        "remora train gpu.yaml --set cluster.micro_batch=1 --set cluster.activation_checkpointing=true": GPU,
        "remora resume": GPU,
    },
    "first-search.md": {},
    "serving-a-team.md": {
        "remora attack http://127.0.0.1:8000": "two minutes; tests/serving/test_serving_attack_on_ray.py",
        "remora promote mine-2": "of a second model; tests/commands/test_promote_command.py",
        "export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=remora.serving.front:middlewares": CLUSTER,
        "export REMORA_KEYS=/shared/keys.yaml": CLUSTER,
        "ray start --head": CLUSTER,
        "python serve/deploy.py serve/production.yaml": "tests/serving/test_serving_roll.py deploys",
    },
    "first-cluster.md": {
        "remora train jobs/demo-base.yaml --set cluster.workers=2": ON_RAY,
        "ray start --head": CLUSTER,
        "remora train jobs/demo-base.yaml --address auto": CLUSTER,
        "ray stop": "would stop every cluster of this machine",
        "pip install 'ray[default]' boto3": NETWORK,
        "ray up cluster.yaml": CLUSTER,
        "ray exec cluster.yaml 'cd /home/ubuntu/remora && "
        ".venv/bin/remora search tune/demo.yaml --address auto --plain'": CLUSTER,
        "ray down cluster.yaml": CLUSTER,
        "remora submit tune/demo.yaml --address http://127.0.0.1:8265": f"{CLUSTER}; tests/cluster/test_jobs.py",
        "kubectl apply -f rayjob.yaml": "needs Kubernetes",
        "kubectl get rayjobs": "needs Kubernetes",
        "sbatch train.sbatch": "`test_the_slurm_script_gives_what_ray_and_remora_accept` runs what it submits",
    },
}
"""Page -> command -> why it is not given here."""

COLOURS = {"red": (210, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 210), "yellow": (240, 210, 40)}
QUESTION = "What is on the table?"
SMALL = {
    "overrides:\n": "overrides:\n  language: {steps: 8, batch: 4}\n",
    "steps: 200": "steps: 8",
    "batch: 16": "batch: 4",
    "--gpu l4 --yes": "--gpu l4 --yes --llm demo-2m --vision efficientnet-lite0",
}
"""What makes the pages' specs small; the last one's memory is counted in half of the time."""


def tutorials() -> set[str]:
    text = (ROOT / "mkdocs.yml").read_text()
    nav: list[dict[str, list[dict[str, str]]]] = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    (pages,) = [part["Tutorials"] for part in nav if "Tutorials" in part]
    return {file for page in pages for file in page.values()}


def test_every_tutorial_is_followed_and_what_is_left_out_is_there() -> None:
    assert tutorials() == set(LEFT_OUT)
    for page, left_out in LEFT_OUT.items():
        assert set(left_out) <= set(commands(page)), (page, set(left_out) - set(commands(page)))
    text = Path(__file__).read_text()
    for page in LEFT_OUT:
        assert f'follow("{page}"' in text or set(commands(page)) <= set(LEFT_OUT[page]), page


def test_a_wrong_command_of_a_page_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.tutorials.DOCS", tmp_path)
    (tmp_path / "a.md").write_text(
        "A page.\n\n    echo one   # said\n    remora serch it\n\n```sh\necho \\\n  two\n```\n"
    )
    assert commands("a.md") == ["echo one", "remora serch it", "echo two"]
    reader = Reader(tmp_path)
    with pytest.raises(AssertionError, match="invalid choice: 'serch'"):
        reader.follow("a.md", {})
    assert reader.said == {"echo one": "one\n"}
    assert reader.follow("a.md", {"remora serch it": "wrong"}) == ["echo one", "echo two"]


def photographs(folder: Path, count: int) -> None:
    """What the reader brings: pictures, a table with two questions about each, and the same as LLaVA's JSON."""
    rng = random.Random(0)
    (folder / "photos").mkdir()
    rows = []
    for i in range(count):
        colour = rng.choice(list(COLOURS))
        picture = Image.effect_noise((64, 64), 40).convert("RGB")
        x, y, r = rng.randint(20, 44), rng.randint(20, 44), rng.randint(10, 16)
        ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
        name = f"kitchen-{i:02}.jpg"
        picture.save(folder / "photos" / name)
        rows += [(name, QUESTION, f"a {colour} cup"), (name, "Is it red?", "yes" if colour == "red" else "no")]
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *rows])
    (folder / "data").mkdir()
    (folder / "data" / "pictures").symlink_to(folder / "photos")
    (folder / "data" / "mine.json").write_text(json.dumps([record(i, *row) for i, row in enumerate(rows[8:])]))
    asked = [{"question_id": i, "image": n, "text": q, "answer": a} for i, (n, q, a) in enumerate(rows[:8])]
    (folder / "data" / "held-out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))


def record(number: int, image: str, question: str, answer: str) -> dict[str, object]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "image": image, "conversations": turns}


def words_for_the_language_model(runs: Path, count: int) -> None:
    """Text where `remora data demo` puts it."""
    file = Store(runs).data / catalog.dataset("demo-language").path
    file.parent.mkdir(parents=True)
    said = [(QUESTION, f"a {colour} cup") for colour in COLOURS] * (count // len(COLOURS))
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in said]
    file.write_text(json.dumps([{"id": str(i), "conversations": both} for i, both in enumerate(turns)]))


def pictures_for_the_demo(runs: Path) -> None:
    """Records enough for a step, where `remora data demo` puts thousands."""
    for name in ("demo-captions", "demo-finetune"):
        entry = catalog.dataset(name)
        write_records(Store(runs).data, entry.path, entry.images, 600, True)


def beginner(folder: Path, **small: str) -> Reader:
    reader = Reader(folder, SMALL | small)
    photographs(folder, 40)
    words_for_the_language_model(reader.runs, 64)
    return reader


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Somebody who has followed your-pictures.md, and so has a model."""
    reader = beginner(tmp_path_factory.mktemp("reader"))
    reader.follow("your-pictures.md", LEFT_OUT["your-pictures.md"])
    return reader


@pytest.mark.slow
def test_your_pictures_ends_with_a_score(reader: Reader) -> None:
    said = reader.said
    assert "72 records" in said["remora data check train.csv --images photos"]
    assert "language" in said["remora plan mine.yaml"]
    assert "<html" in (reader.folder / "samples.html").read_text()
    scored = said["remora train mine.yaml --local"]
    assert "base-Eff-2M-mlp" in scored and "held-out" in scored and "blind" in scored


@pytest.mark.slow
def test_what_your_pictures_says_goes_wrong_is_what_is_said(reader: Reader) -> None:
    """Each kind of its second table, as `data check` reports it."""
    place, page = reader.folder, (DOCS / "your-pictures.md").read_text()
    torn = reader.folder / "torn"
    torn.mkdir()
    whole = (place / "photos" / "kitchen-00.jpg").read_bytes()
    (torn / "whole.jpg").write_bytes(whole)
    (torn / "torn.jpg").write_bytes(whole[:200])
    (torn / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
    rows = [("whole.jpg", "?", ""), *((name, "?", "a cup") for name in ("gone.jpg", "torn.jpg", "a.heic"))]
    with (place / "bad.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer"), *rows])
    check = ["remora", "data", "check", "bad.csv", "--images", "torn"]
    done = subprocess.run(check, cwd=place, env=reader.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for kind in ("missing-image", "corrupt-image", "unsupported-image", "empty-answer"):
        assert kind in done.stdout and f"`{kind}`" in page


@pytest.mark.slow
def test_a_search_that_pays_shares_stops_and_has_a_champion(reader: Reader) -> None:
    reader.follow("first-search.md", LEFT_OUT["first-search.md"])
    planned = reader.said["remora plan space.yaml"]
    assert "7 stage runs" in planned and "12 stage runs" in planned and "is there" in planned
    found = reader.said["remora search space.yaml --local"]
    assert "champion: base-Eff-2M-" in found and "saved: " in found
    shown = reader.said["remora searches show photos"]
    assert "56 by sharing and reuse and 8 by stopping, of 96 steps" in shown and shown.count(" promote ") == 2
    assert (reader.runs / "searches" / "photos" / "report" / "report.html").exists()


@pytest.mark.slow
def test_start(reader: Reader) -> None:
    reader.follow("start.md", LEFT_OUT["start.md"])
    assert "remora@champion: version" in reader.said["remora register base-Eff-2M-mlp --alias champion"]


@pytest.mark.slow
def test_the_first_gpu_run_is_planned(reader: Reader) -> None:
    reader.follow("first-gpu-run.md", LEFT_OUT["first-gpu-run.md"])
    planned = reader.said["remora plan gpu.yaml --gpu l4 --price 0.8"]
    assert "Memory of a rank on l4" in planned and "Time and cost" in planned
    assert "base-Eff-2M-mlp" in reader.said["remora logs"]


@pytest.mark.slow
def test_the_demo_s_space_and_a_rayjob_are_written_down(reader: Reader) -> None:
    pictures_for_the_demo(reader.runs)
    reader.follow("demo.md", LEFT_OUT["demo.md"])
    reader.follow("first-cluster.md", LEFT_OUT["first-cluster.md"])
    kinds = [one["kind"] for one in yaml.safe_load_all((reader.folder / "rayjob.yaml").read_text())]
    assert kinds == ["ConfigMap", "RayJob"]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[Reader]:
    """Somebody who has a model, and photographs."""
    reader = beginner(tmp_path, **{"8000": str(port)})
    needed = {"python split.py", "remora train mine.yaml --local"}
    reader.follow("your-pictures.md", {c: "" for c in commands("your-pictures.md") if c not in needed})
    yield reader
    reader.leave()


@pytest.mark.slow
@pytest.mark.ray
def test_serving_to_a_team(server: Reader) -> None:
    server.follow("serving-a-team.md", LEFT_OUT["serving-a-team.md"])
    said = server.said
    (asked,) = [out for command, out in said.items() if "remora chat" in command]
    assert asked.strip()
    (models,) = [out for command, out in said.items() if command.endswith('$REMORA_KEY"')]
    assert "base-Eff-2M-mlp" in [one["id"] for one in json.loads(models)["data"]]
    assert "base-Eff-2M-mlp" in said["remora promote --history"]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["first-cluster.md", "serving-a-team.md"])
def test_rays_commands_are_accepted_by_ray(page: str) -> None:
    from ray.scripts.scripts import cli

    given = [shlex.split(command) for command in commands(page) if command.startswith("ray ")]
    assert given
    for _, verb, *rest in given:
        cli.commands[verb].make_context(verb, list(rest))


@pytest.mark.slow
def test_the_slurm_script_gives_what_ray_and_remora_accept(tmp_path: Path) -> None:
    """With stand-ins for SLURM's and Ray's programs: real ones end with `ray stop`, for all of a machine."""
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import check_cluster_ready, curate_and_validate_ray_start_args, symmetric_run

    (script,) = [block.text for block in blocks("first-cluster.md") if block.file == "train.sbatch"]
    assert script.startswith("#!/bin/bash\n")
    (tmp_path / "train.sbatch").write_text(script)
    own = tmp_path / ".venv" / "bin"
    own.mkdir(parents=True)
    (own / "activate").touch()
    stand_ins = {
        "scontrol": 'test "$1 $2" = "show hostnames" && printf "node1\\nnode2\\n"',
        "srun": 'exec "$@"',
        "ray": 'printf "%s\\0" "$@" > "ray-$1"',
    }
    for name, text in stand_ins.items():
        (own / name).write_text(f"#!/bin/bash\n{text}\n")
        (own / name).chmod(0o755)
    env = {"PATH": f"{own}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    subprocess.run(["bash", "train.sbatch"], cwd=tmp_path, env=env, check=True)
    words = (tmp_path / "ray-symmetric-run").read_text().split("\0")[1:-1]
    assert (tmp_path / "ray-get-auth-token").read_text() == "get-auth-token\0--generate\0"
    cut = words.index("--")
    params = symmetric_run.make_context("it", words[:cut]).params
    assert (params["address"], params["min_nodes"]) == ("node1:6379", 2)
    start.make_context("start", ["--address=node1:6379", *curate_and_validate_ray_start_args(words[:cut])])
    assert words[cut + 1] == "remora"
    parser().parse_args(words[cut + 2 :])
    assert "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT" in inspect.getsource(sys.modules[check_cluster_ready.__module__])
