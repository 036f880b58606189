"""The whole workflow with real Ray, DeepSpeed, MLflow and Serve; the tests share one run folder and run in order."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from remora.training.journal import read, steps_of
from support.interrupts import hear_interrupts
from support.ports import free_port
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STORY = "REMORA_TEST_STORY"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("story") / "runs"


@pytest.fixture(scope="module")
def env(runs: Path) -> dict[str, str]:
    """A shell without Ray's or MLflow's settings, whose HOME is empty."""
    home = runs.parent / "home"
    home.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    mine = {STORY: str(runs), "HOME": str(home), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "COLUMNS": "140"}
    return {**kept, **mine}


def in_fine_tuning(runs: Path, at_least: int) -> Path | None:
    """The working folder of a fine-tuning that has taken this many steps."""
    for journal in (runs / "stages").glob("finetune-*.work/journal.jsonl"):
        if len(steps_of(journal)) >= at_least:
            return journal.parent
    return None


def run_demo(runs: Path, env: dict[str, str], figures: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "tiny_demo.py"), "--runs", str(runs), "--out", str(figures)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hear_interrupts
    )


def test_ctrl_c_stops_everything_and_loses_no_finished_stage(runs: Path, env: dict[str, str]) -> None:
    demo = run_demo(runs, env, runs.parent / "never.json")
    until(
        "the alignment to end",
        lambda: demo.poll() is not None or list((runs / "stages").glob("language-*/manifest.json")),
    )
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 130, said
    logs = list((runs / "logs").glob("search-*.log"))
    assert len(logs) == 1
    until("every process to end", lambda: not left_over(runs))
    assert list((runs / "stages").glob("language-*/manifest.json"))


def left_over(runs: Path) -> list[int]:
    """Running processes that this file's commands have started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"{STORY}={runs}".encode() in environ.split(b"\0") and state != "Z":
            found.append(int(entry.name))
    return found


def test_the_demo_survives_kill_9_of_a_worker(runs: Path, env: dict[str, str]) -> None:
    figures = runs.parent / "figures.json"
    demo = run_demo(runs, env, figures)
    until("fine-tuning", lambda: demo.poll() is not None or in_fine_tuning(runs, 5))
    assert demo.poll() is None, demo.communicate()[0]
    work = in_fine_tuning(runs, 5)
    assert work is not None
    os.kill(int((work / "worker-1.pid").read_text()), signal.SIGKILL)
    said, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, said

    lines = list(read(runs / "stages" / work.name.removesuffix(".work") / "journal.jsonl"))
    started = [e["at"] for e in lines if e["event"] == "started"]
    assert len(started) == 2, "the killed group was not started again"
    assert started[0] == 0
    assert started[1] >= 3, "it did not resume from a checkpoint"
    assert [e["step"] for e in lines if e["event"] == "step"] == list(range(24))

    out = json.loads(figures.read_text())
    assert [v["name"] for v in out["variants"]] == ["base-Eff-2M-mlp", "share-Eff-2M-mlp"]
    assert out["champion"] in {v["name"] for v in out["variants"]}
    # language, and what came before Ctrl-C took hold, was finished; the two variants share it and the alignment
    assert out["stage_runs"]["planned"] == 7
    assert out["stage_runs"]["trained"] + out["stage_runs"]["reused"] == 7
    assert 2 <= out["stage_runs"]["trained"] <= 4
    asked = len((runs / "data/demo/easy-vqa-test.jsonl").read_text().splitlines())
    assert 400 < asked < 800
    for v in out["variants"]:
        assert v["n"] == asked
        assert v["ci"][0] <= v["accuracy"] <= v["ci"][1]
        assert 0 <= v["blind"] <= 1
        assert 0 < v["question_only"] < 1
    assert set(out["answer"]) == {"image", "question", "answer", "expected"}
    assert "curl -sS" in said
    assert "remora ui" in said
    until("every process to end", lambda: not left_over(runs))


def test_a_second_run_trains_nothing(runs: Path, env: dict[str, str]) -> None:
    figures = runs.parent / "again.json"
    demo = run_demo(runs, env, figures)
    said, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, said
    out, before = json.loads(figures.read_text()), json.loads((runs.parent / "figures.json").read_text())
    assert out["stage_runs"]["trained"] == 0
    assert out["stage_runs"]["reused"] == 7
    log = max((runs / "logs").glob("search-*.log"), key=lambda f: f.stat().st_mtime_ns)
    assert "starting Ray on this machine\nRay is up after " in log.read_text()
    assert [v["accuracy"] for v in out["variants"]] == [v["accuracy"] for v in before["variants"]]


def test_mlflow_holds_one_run_a_stage_run_and_the_champion(runs: Path, env: dict[str, str]) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "remora"]
    found = client.search_runs([experiment.experiment_id], max_results=100)
    stages = [r for r in found if r.data.tags.get("remora.kind") == "stage"]
    assert sorted(r.info.run_name for r in stages) == sorted(p.name for p in (runs / "stages").iterdir() if p.is_dir())
    for run in stages:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss")]
        assert steps == list(range(len(steps))), f"{run.info.run_name}: {steps}"
        assert run.info.status == "FINISHED", run.info.run_name
        # A reference to the weights, not the weights.
        assert {a.path for a in client.list_artifacts(run.info.run_id)} == {"stage.json", "tuning.md", "parts.json"}
        assert run.data.params
    ids = {r.info.run_id for r in stages}
    variants = [r for r in found if r.data.tags.get("remora.kind") == "variant" and r.info.status == "FINISHED"]
    for variant in variants:
        links = {v for k, v in variant.data.tags.items() if k.startswith("remora.stage.")}
        assert links <= ids
        assert "easy-vqa/accuracy" in variant.data.metrics
    version = client.get_model_version_by_alias("remora", "champion")
    assert version.run_id in {v.info.run_id for v in variants}
    # Every weight is stored once: a bundle and the champion are hard links to what a stage run published.
    places = [p for place in ("stages", "bundles", "mlruns") for p in (runs / place).rglob("*.safetensors")]
    published = {p.stat().st_ino for p in (runs / "stages").rglob("*.safetensors")}
    assert {p.stat().st_ino for p in places} == published
    assert {run.info.status for run in found} == {"FINISHED"}, "the search that Ctrl-C stopped was taken up again"


@pytest.fixture(scope="module")
def endpoint(runs: Path, env: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The URL of `remora serve`, and the key that it made."""
    port = free_port()
    command = [sys.executable, "-m", "remora", "serve", "--runs", str(runs), "--port", str(port)]
    log = runs.parent / "endpoint.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, preexec_fn=hear_interrupts)
    until("the endpoint", lambda: server.poll() is not None or "ready: " in log.read_text())
    assert server.poll() is None, log.read_text()
    assert "serving share-" in log.read_text() or "serving base-" in log.read_text()
    key = log.read_text().partition("export REMORA_KEY=")[2].split()[0]
    yield f"http://127.0.0.1:{port}", key
    server.send_signal(signal.SIGINT)
    assert server.wait(PATIENCE) == 0, log.read_text()


def test_the_champion_answers_the_openai_client_as_it_was_measured(runs: Path, endpoint: tuple[str, str]) -> None:
    from openai import AuthenticationError, OpenAI

    champion = json.loads((runs / "searches" / "tiny.json").read_text())["champion"]
    answers = next((runs / "scores").glob(f"{champion}-openmoji-unseen-*/answers.jsonl"))
    measured = {a["question_id"]: a["text"] for a in map(json.loads, answers.read_text().splitlines())}
    questions = [json.loads(q) for q in (runs / "data/demo/openmoji-unseen.jsonl").read_text().splitlines()]
    url, key = endpoint
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).models.list()
    client = OpenAI(base_url=f"{url}/v1", api_key=key)
    known: dict[str, Any] = client.models.retrieve("remora").to_dict()["metadata"]  # type: ignore[assignment]
    scores = known["scores"][known["chosen_by"]]
    assert scores["score"] >= 0 and scores["blind"] is not None and scores["question_only"] is not None
    assert {champion, "remora"} <= {m.id for m in client.models.list()}
    for question in questions[:6]:
        picture = base64.b64encode((runs / "data/demo/images" / question["image"]).read_bytes()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
            {"type": "text", "text": question["text"]},
        ]
        said = client.chat.completions.create(
            model="remora", max_tokens=4, messages=[{"role": "user", "content": content}]
        )
        assert said.choices[0].message.content == measured[question["question_id"]]


def test_without_ray_a_stage_learns_what_it_does_on_it(runs: Path, env: dict[str, str]) -> None:
    """From what Ray trained before it, under the same identity; the job below then finds what is trained here."""
    (base,) = (v for v in json.loads((runs / "searches/tiny.json").read_text())["variants"] if v["name"][:4] == "base")
    (name,) = (stage for stage in base["stages"] if stage.startswith("finetune"))
    theirs = (runs / "stages" / name).rename(runs.parent / name)
    command = [sys.executable, "jobs/train.py", "tests/e2e/tiny-base.yaml", "--runs", str(runs), "--local"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"finetune begins ({name})" in done.stdout and "Ray" not in done.stdout
    assert "language begins" not in done.stdout and "align begins" not in done.stdout
    ours, before = (
        [e["loss"] for e in steps_of(folder / "journal.jsonl")] for folder in (runs / "stages" / name, theirs)
    )
    assert ours == pytest.approx(before, rel=1e-4) and len(ours) == 24
    assert "easy-vqa-val: accuracy 0." in done.stdout
    assert "blind 0." in done.stdout and "question only 0." in done.stdout
    bundle = done.stdout.partition("bundle: ")[2].splitlines()[0]
    # What was trained is registered by its variant's name, and named by its version from then on.
    register = [sys.executable, "-m", "remora", "register", "base-Eff-2M-mlp", "--as", "alone", "--runs", str(runs)]
    said = subprocess.run(register, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert f"alone@champion: version 1, base-Eff-2M-mlp ({bundle})" in said.stdout, said.stderr


@pytest.fixture(scope="module")
def head(runs: Path, env: dict[str, str]) -> Iterator[dict[str, str]]:
    """`ray start --head` on free ports, as a person would start it, and the environment that talks to it."""
    port, dashboard, agent, client = (free_port() for _ in range(4))
    ray = Path(sys.executable).with_name("ray")
    # A job's interpreter is the cluster's: the environment's own comes first, as in an activated one.
    bin_first = f"{ray.parent}{os.pathsep}{env['PATH']}"
    inherited = {**env, "REMORA_RUNS": str(runs), "PATH": bin_first}
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options.append(f"--ray-client-server-port={client}")
    command = [str(ray), "start", "--head", "--block", "--num-cpus=2", *options]
    log = runs.parent / "head.log"
    with log.open("w") as out:
        node = subprocess.Popen(command, env=inherited, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    # Jobs go through the node's agent, which comes up seconds after the dashboard and registers itself there.
    until("the cluster", lambda: node.poll() is not None or (_answers(dashboard) and _runs_jobs(env, dashboard)))
    assert node.poll() is None, log.read_text()
    yield {**inherited, "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    node.send_signal(signal.SIGTERM)
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def _answers(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/version", trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _runs_jobs(env: dict[str, str], dashboard: int) -> bool:
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--", "true"]
    return subprocess.run(command, env=env, capture_output=True, timeout=PATIENCE, check=False).returncode == 0


@pytest.mark.parametrize(
    ("script", "spec", "says"),
    [
        ("jobs/train.py", "tests/e2e/tiny-base.yaml", "bundle: "),
        ("tune/search.py", "tests/e2e/tiny.yaml", "champion: "),
    ],
)
def test_ray_job_submit(head: dict[str, str], script: str, spec: str, says: str) -> None:
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "job", "submit", "--working-dir", ".", "--", "python", script, spec]
    done = subprocess.run(command, env=head, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert says in done.stdout and " begins (" not in done.stdout


def test_the_shipped_specs_are_those_of_the_demo() -> None:
    assert (ROOT / "tune/demo.yaml").samefile(ROOT / "platform/remora/commands/demo.yaml")
    space = yaml.safe_load((ROOT / "tune/demo.yaml").read_text())
    assert len(space["connector"]) * len(space["recipe"]) == 4
