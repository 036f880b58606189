"""A submission as a SkyPilot task: machines that are rented for it.

sky launch job.yaml
"""

from __future__ import annotations

from remora.cluster.submission import RUNS, Manifest, Nodes, Submission

PORT = 6379
"""SkyPilot's own Ray has another."""


def task(submission: Submission, nodes: Nodes, image: str | None, volume: str) -> Manifest:
    """The task's YAML, as an object.

    Args:
        image: A container image in which Remora is installed; None: it is installed from the working folder, or PyPI.
        volume: SkyPilot's volume that all nodes mount as the run folder.
    """
    resources: Manifest = {"cpus": f"{nodes.cpus}+"}
    if nodes.gpus:
        resources["accelerators"] = f"{submission.cluster.accelerator or 'L4'}:{nodes.gpus}"
    if nodes.memory:
        resources["memory"] = f"{nodes.memory + 2}+"
    if image:
        resources["image_id"] = f"docker:{image}"
    made: Manifest = {
        "name": submission.label,
        "workdir": ".",
        "num_nodes": nodes.count,
        "resources": resources,
        "volumes": {RUNS: volume},
        "envs": {"REMORA_RUNS": RUNS, **submission.env},
    }
    if submission.secrets:
        made["secrets"] = dict.fromkeys(submission.secrets)  # `sky launch --secret NAME`
    if not image:
        source = (submission.folder / "platform" / "remora").is_dir()
        made["setup"] = "pip install -e '.[train]' -c constraints.txt\n" if source else "pip install 'remora[train]'\n"
    made["run"] = _run(submission, nodes)
    return made


def _run(submission: Submission, nodes: Nodes) -> str:
    if nodes.count == 1:
        return f"{submission.command(RUNS)}\n"
    begin = f"""\
head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)
export RAY_AUTH_MODE=disabled  # for the nodes' own network, which SkyPilot closes
if [ "$SKYPILOT_NODE_RANK" != 0 ]; then
  until ray start --address "$head:{PORT}"; do sleep 5; done
  exit 0
fi
ray start --head --port {PORT} --dashboard-host 127.0.0.1
python - <<'END'
import time, ray
ray.init("127.0.0.1:{PORT}")
while sum(node["Alive"] for node in ray.nodes()) < {nodes.count}:
    time.sleep(5)
END
"""
    return begin + submission.command(RUNS, "--address", f"127.0.0.1:{PORT}") + "\n"
