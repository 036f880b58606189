"""`remora submit` and `remora doctor` against a cluster that `ray start --head` makes, with Ray's tokens as it comes.

The working folder has a small package of Remora's name, which is what the cluster runs: a job that trains nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from remora.processes import Child
from support.interrupts import hear_interrupts
from support.ports import free_port
from support.waiting import PATIENCE, until

pytestmark = pytest.mark.ray

STUB = """
import os, sys, time
print("at work:", *sys.argv[1:], os.environ.get("ANSWER"), os.environ.get("REMORA_CATALOG", "-"), flush=True)
if "--set" in sys.argv:
    print("remora: it does not fit", file=sys.stderr)
    sys.exit(1)
while "slow" in sys.argv[2]:
    time.sleep(0.1)
print("done", flush=True)
"""
SPEC = "{vision: efficientnet-lite0, connector: mlp2x_gelu, llm: demo-2m, recipe: base}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "work" / "platform" / "remora").mkdir(parents=True)
    (folder / "work" / "platform" / "remora" / "__init__.py").touch()
    (folder / "work" / "platform" / "remora" / "__main__.py").write_text(STUB)
    for name in ("quick.yaml", "slow.yaml"):
        (folder / "work" / name).write_text(SPEC)
    (folder / "runs").mkdir()
    return folder


@pytest.fixture(scope="module")
def env(place: Path) -> dict[str, str]:
    """Nothing says how Ray authenticates: a token is made and asked for."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "REMORA_"))}
    first = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(place), "PATH": first, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def head(place: Path, env: dict[str, str]) -> Iterator[tuple[int, int]]:
    """(Port of the head, port of the dashboard)."""
    port, dashboard, agent, client = (free_port() for _ in range(4))
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options += [f"--ray-client-server-port={client}", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
    token = Path(env["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700)
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o600)
    # A Child has this process's environment, in which other tests' clusters have left Ray's settings.
    unset = [word for name in os.environ if name.startswith(("RAY_", "MLFLOW_", "REMORA_")) for word in ("-u", name)]
    command = ["env", *unset, str(Path(sys.executable).with_name("ray")), "start", "--head", *options]
    node = Child(command, place / "head.log", env)
    try:
        until("the cluster", lambda: not node.running or refuses(dashboard))
        assert node.running, node.error()
        yield port, dashboard
    finally:
        node.stop()


def refuses(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/version", trust_env=False, timeout=2).status_code == 401
    except httpx.HTTPError:
        return False


def remora(place: Path, env: dict[str, str], *given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "remora", *given]
    work = place / "work"
    return subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_job_is_sent_followed_cancelled_and_its_failure_told(place: Path, env: dict[str, str], head) -> None:
    where = ["--address", f"http://127.0.0.1:{head[1]}"]
    runs = ["--runs", str(place / "runs")]
    done = until(
        "an agent", lambda: succeeded(remora(place, env, "submit", "quick.yaml", *where, *runs, "--env", "ANSWER=42"))
    )
    first, *more, last = done.stdout.splitlines()  # Ray's own lines among them
    command = f"train quick.yaml --plain --runs {place}/runs"
    assert first.startswith("job remora-train-base-eff-2m-mlp-") and first.endswith(f"python -m remora {command}")
    assert more.count(f"at work: {command} 42 -") == 1 and last == "done"

    failed = remora(place, env, "submit", "quick.yaml", *where, "--set", "finetune.lr=1e-4")
    assert failed.returncode == 1 and "remora: it does not fit" in failed.stdout
    assert (
        failed.stderr.startswith("remora: job remora-train-") and " failed: remora: it does not fit; " in failed.stderr
    )

    begun = remora(place, env, "submit", "slow.yaml", *where, "--detach")
    job = begun.stdout.split()[1]
    assert begun.stdout.splitlines()[-1] == f"next: remora submit --follow {job}"
    following = subprocess.Popen(
        [sys.executable, "-m", "remora", "submit", "--follow", job, *where],
        env=env, cwd=place / "work", stdout=subprocess.PIPE, text=True, preexec_fn=hear_interrupts,
    )  # fmt: skip
    assert following.stdout
    assert any(line.startswith("at work: train slow.yaml") for line in iter(following.stdout.readline, ""))
    following.send_signal(signal.SIGINT)
    said = following.stdout.read()
    following.stdout.close()
    assert following.wait(PATIENCE) == 130 and f"the job goes on; next: remora submit --follow {job}" in said
    assert remora(place, env, "submit", "--cancel", job, *where).stdout == f"job {job}: stopped\n"
    again = remora(place, env, "submit", "--cancel", job, *where)
    assert (again.returncode, again.stdout) == (0, f"job {job}: stopped\n")
    unknown = remora(place, env, "submit", "--follow", "nobody", *where)
    assert unknown.returncode == 1 and "has no job 'nobody'; it has: remora-train-" in unknown.stderr


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str] | None:
    """Jobs go through the node's agent, which comes up seconds after the dashboard."""
    return done if done.returncode == 0 else None


def test_a_wrong_token_is_one_line(place: Path, env: dict[str, str], head) -> None:
    for token in ({"RAY_AUTH_TOKEN": "wrong" * 8, "RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled"}):
        given = ["submit", "quick.yaml", "--address", f"http://127.0.0.1:{head[1]}"]
        done = remora(place, {**env, **token}, *given)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "refuses us: " in done.stderr and "RAY_AUTH_TOKEN_PATH=FILE" in done.stderr


def test_the_doctor_asks_the_nodes(place: Path, env: dict[str, str], head) -> None:
    token = {**env, "RAY_AUTH_MODE": "token"}
    done = remora(place, token, "doctor", "--address", f"127.0.0.1:{head[0]}", "--json", "--runs", str(place / "runs"))
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert found["nodes"]["good"], found["nodes"]
    assert found["nodes"]["said"].startswith("1 node, clocks within 0.00 s, the same Remora")
    assert found["Ray's authentication"]["said"] == "RAY_AUTH_MODE=token, with a token"
