"""What `remora submit` writes down, by the schemas of KubeRay and SkyPilot; and what it refuses before it sends."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from remora.cli import main
from remora.cluster.jobs import address_of
from remora.cluster.submission import Nodes, Submission, environment, nodes_of
from remora.commands.operate_options import SubmitOptions
from remora.commands.submit import runs_there
from remora.errors import SpecError
from remora.spec import Cluster
from support.ports import free_port

RAYJOB = json.loads((Path(__file__).parents[1] / "golden" / "rayjob.schema.json").read_text())
NAMES = {"type": "object", "patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}}}
TEXT_OR_NUMBER = {"type": ["string", "number"]}
TASK = {
    # Names and types of SkyPilot's task and resources (sky/utils/schemas.py at 00052df), as far as they are written.
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "workdir": {"type": "string"},
        "num_nodes": {"type": "integer"},
        "setup": {"type": "string"},
        "run": {"type": "string"},
        "envs": NAMES | {"additionalProperties": False},
        "secrets": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "volumes": {"type": "object"},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "cpus": TEXT_OR_NUMBER,
                "memory": TEXT_OR_NUMBER,
                "accelerators": {"type": "string"},
                "image_id": {"type": "string"},
            },
        },
    },
}
SPEC = """\
vision: clip-l-336
connector: mlp2x_gelu
llm: phi-2
recipe: {recipe}
cluster: {{workers: {workers}, gpus_per_worker: 1, cpus_per_worker: 8, memory_per_worker: 60, accelerator: H100}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder whose spec names a recipe beside it."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "big.yaml").write_text(SPEC.format(recipe="own/mine.yaml", workers=32))
    (tmp_path / "jobs" / "own").mkdir()
    stages = [{"name": "finetune", "mixture": ["llava-mix-665k"], "steps": 10, "lr": 1e-4, "batch": 32}]
    (tmp_path / "jobs" / "own" / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": stages}))
    return tmp_path


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    main(["submit", str(folder / "jobs" / "big.yaml"), "--working-dir", str(folder), *more])
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_a_rayjob_is_one_by_kuberays_schema(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--print",
        "kuberay",
        "--image",
        "registry/remora:7",
        "--volume",
        "efs",
        "--env",
        "A=b",
        "--env",
        "HF_TOKEN",
    ]
    config, job = printed(folder, capsys, *given, "--set", "finetune.lr=1e-5", "--max-hours", "3")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], RAYJOB)
    assert job["spec"]["entrypoint"] == (
        "python -m remora train /specs/jobs/big.yaml --plain --runs /runs --set finetune.lr=1e-5 --max-hours 3.0"
    )
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (4, 4)  # 32 workers on machines of 8 GPUs
    for group, kind in ((workers, "ray-worker"), (cluster["headGroupSpec"], "ray-head")):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert (container["name"], container["image"]) == (kind, "registry/remora:7")
        assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "efs"
        secret = {"secretKeyRef": {"name": "remora", "key": "HF_TOKEN"}}
        assert container["env"] == [{"name": "A", "value": "b"}, {"name": "HF_TOKEN", "valueFrom": secret}]
    (trains,) = workers["template"]["spec"]["containers"]
    assert trains["resources"]["limits"] == {"cpu": "65", "nvidia.com/gpu": "8", "memory": "482Gi"}
    # The files are where the spec looks for them.
    items = pod["volumes"][1]["configMap"]["items"]
    placed = {item["path"]: config["data"][item["key"]] for item in items}
    assert (
        placed == {name: (folder / name).read_text() for name in ("jobs/big.yaml", "jobs/own/mine.yaml")}
        and pod["volumes"][1]["configMap"]["name"] == config["metadata"]["name"]
    )


def test_a_key_that_kuberay_does_not_know_is_found_by_that_schema(folder: Path, capsys) -> None:
    _, job = printed(folder, capsys, "--print", "kuberay")
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate(job["spec"], RAYJOB)


def test_a_skypilot_task_is_one_by_its_schema(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (task,) = printed(folder, capsys, "--print", "skypilot", "--env", "A=b", "--env", "HF_TOKEN")
    jsonschema.validate(task, TASK)
    assert task["resources"] == {"cpus": "65+", "accelerators": "H100:8", "memory": "482+"}
    assert (task["num_nodes"], task["envs"], task["secrets"]) == (
        4,
        {"REMORA_RUNS": "/runs", "A": "b"},
        {"HF_TOKEN": None},
    )
    assert task["run"].splitlines()[-1].endswith("jobs/big.yaml --plain --runs /runs --address 127.0.0.1:6379")
    (tmp_path / "run.sh").write_text(task["run"])
    subprocess.run(["bash", "-n", str(tmp_path / "run.sh")], check=True)
    (task,) = printed(folder, capsys, "--print", "skypilot", "--set", "cluster.workers=2", "--image", "it:1")
    jsonschema.validate(task, TASK)
    assert task["run"] == "python -m remora train jobs/big.yaml --plain --runs /runs --set cluster.workers=2\n"
    assert "setup" not in task and task["resources"]["image_id"] == "docker:it:1" and task["num_nodes"] == 1


def made(**said: Any) -> Submission:
    groups = said.pop("groups", 1)
    return Submission("train", "it", Path("/w"), Path("s.yaml"), Cluster(**said), groups=groups)


@pytest.mark.parametrize(
    ("said", "per_node", "nodes"),
    [
        ({"workers": 2}, 8, Nodes(1, 1, 3, 0, 0)),
        ({"workers": 8, "gpus_per_worker": 1}, 8, Nodes(1, 1, 9, 8, 0)),
        ({"workers": (4, 16), "gpus_per_worker": 1}, 8, Nodes(2, 1, 9, 8, 0)),
        ({"workers": 9, "gpus_per_worker": 1}, 4, Nodes(3, 3, 5, 4, 0)),
        ({"workers": 1, "gpus_per_worker": 0.5, "groups": 4}, 8, Nodes(1, 1, 5, 2, 0)),
        ({"workers": 1, "gpus_per_worker": 1, "groups": 16}, 1, Nodes(16, 16, 2, 1, 0)),
    ],
)
def test_nodes(said: dict[str, Any], per_node: int, nodes: Nodes) -> None:
    assert nodes_of(made(**said), per_node) == nodes


def test_variables_have_values_or_are_secrets() -> None:
    assert environment(["A=b=c", "HF_TOKEN", "E="]) == ({"A": "b=c", "E": ""}, ("HF_TOKEN",))
    for bad in ("=x", "a-b=c", ""):
        with pytest.raises(SpecError, match="--env takes NAME=VALUE"):
            environment([bad])


def test_a_label_is_one_that_kubernetes_takes() -> None:
    long = Submission("search", "Two_Words/" + "x" * 80, Path("/w"), Path("s"), Cluster())
    assert long.label.startswith("remora-search-two-words-xx") and len(long.label) <= 47


def test_where_jobs_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert address_of(None) == "http://127.0.0.1:8265" and address_of("head:8265") == "http://head:8265"
    assert address_of("https://ray.example/") == "https://ray.example"
    monkeypatch.setenv("RAY_ADDRESS", "http://other:8265")
    assert address_of(None) == "http://other:8265"


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    with pytest.raises(SystemExit) as e:
        main(["submit", *given])
    assert not capsys.readouterr().out and "\n" not in str(e.value.code)
    return str(e.value.code)


def test_what_cannot_be_sent_is_one_line(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = str(folder / "jobs" / "big.yaml")
    assert "submit takes a SPEC, --follow ID or --cancel ID" in refused(capsys)
    assert f"is not in {folder}/jobs/own, which is what is sent" in refused(
        capsys, spec, "--working-dir", str(folder / "jobs" / "own")
    )
    inside = ["--working-dir", str(folder)]
    monkeypatch.delenv("NOT_SET", raising=False)
    assert "--env NOT_SET: it is not set here" in refused(capsys, spec, *inside, "--env", "NOT_SET")
    assert "unknown key" in refused(capsys, spec, *inside, "--set", "finetune.lrr=1")
    port = free_port()
    for given in ([spec, *inside], ["--follow", "x"], ["--cancel", "x"]):
        line = refused(capsys, *given, "--address", f"http://127.0.0.1:{port}")
        assert f"no Ray cluster takes jobs at http://127.0.0.1:{port}: nothing listens there; next:" in line
    (folder / "jobs" / "big.yaml").write_text(SPEC.format(recipe="../mine.yaml", workers=1))
    (folder / "jobs" / "own" / "mine.yaml").rename(folder / "mine.yaml")
    assert "names ../mine.yaml, which is outside of" in refused(
        capsys, spec, "--working-dir", str(folder / "jobs"), "--print", "kuberay"
    )


def test_a_run_folder_that_is_a_url_is_one_on_the_cluster_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not this machine's node folder: there it would be a plain folder, and gone with the job."""
    monkeypatch.setenv("REMORA_NODE_FOLDER", str(tmp_path))
    assert runs_there(SubmitOptions.of({"runs": "s3://bucket/runs"})) == "s3://bucket/runs"
    assert runs_there(SubmitOptions.of({"runs": "/mnt/runs"})) == "/mnt/runs"
    monkeypatch.setenv("REMORA_NODE_FOLDER", str(tmp_path))
    with pytest.raises(SystemExit, match="the run folder is s3://bucket/runs, and what --print writes has the volume"):
        main(["submit", "jobs/demo-base.yaml", "--print", "kuberay", "--runs", "s3://bucket/runs"])
