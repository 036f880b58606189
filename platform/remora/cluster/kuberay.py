"""A submission as a KubeRay RayJob: a cluster that starts for it and goes when it is done.

kubectl apply -f job.yaml
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from remora.cluster.submission import RUNS, Manifest, Nodes, Submission
from remora.errors import SpecError

SPECS = "/specs"
SECRET = "remora"
"""The Secret whose keys are the names of variables without a value."""
LARGEST = 900_000
"""Bytes: Kubernetes takes a ConfigMap of 1 MiB."""
KEPT = 3600
"""Seconds for which the cluster stays when the job has ended, for its logs."""


def documents(submission: Submission, nodes: Nodes, image: str, volume: str) -> tuple[Manifest, Manifest]:
    """(A ConfigMap with the spec and the files it names, the RayJob).

    Args:
        image: A container image in which Remora is installed.
        volume: A PersistentVolumeClaim that all nodes can mount (ReadWriteMany): the run folder.

    Raises:
        SpecError: the files are too large for a ConfigMap.
    """
    files = submission.files()
    if sum(len(text.encode()) for text in files.values()) > LARGEST:
        raise SpecError(f"the files that {submission.spec} names have over {LARGEST:,} bytes; put them on the volume")
    keys = {f"file-{i}": place for i, place in enumerate(files)}
    config: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": submission.label},
        "data": {key: files[place] for key, place in keys.items()},
    }
    volumes: list[Manifest] = [
        {"name": "runs", "persistentVolumeClaim": {"claimName": volume}},
        {
            "name": "specs",
            "configMap": {
                "name": submission.label,
                "items": [{"key": key, "path": place} for key, place in keys.items()],
            },
        },
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    head = _template("ray-head", submission, image, volumes, {"cpu": "2", "memory": "8Gi"})
    asked = {"cpu": str(nodes.cpus)}
    if nodes.gpus:
        asked["nvidia.com/gpu"] = str(nodes.gpus)
    if nodes.memory:
        asked["memory"] = f"{nodes.memory + 2}Gi"  # Ray keeps some for itself
    workers: Manifest = {
        "groupName": "workers",
        "replicas": nodes.count,
        "minReplicas": nodes.least,
        "maxReplicas": nodes.count,
        "rayStartParams": {},
        "template": _template("ray-worker", submission, image, volumes, asked),
    }
    ray: Manifest = {
        "rayVersion": _ray(),
        "authOptions": {"mode": "token"},
        # The head places work and trains nothing, so that losing a worker loses no bookkeeping.
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [workers],
    }
    job: Manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": submission.label},
        "spec": {
            "entrypoint": submission.command(RUNS, within=SPECS),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT,
            "backoffLimit": 0,
            "rayClusterSpec": ray,
        },
    }
    return config, job


def _template(
    name: str, submission: Submission, image: str, volumes: list[Manifest], resources: dict[str, str]
) -> Manifest:
    env: list[Manifest] = [{"name": key, "value": value} for key, value in submission.env.items()]
    for key in submission.secrets:
        env.append({"name": key, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}})
    container: Manifest = {
        "name": name,
        "image": image,
        "env": env,
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "runs", "mountPath": RUNS},
            {"name": "specs", "mountPath": SPECS},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    return {"spec": {"containers": [container], "volumes": volumes}}


def _ray() -> str:
    """The version of Ray that is installed here, or the one that was tried."""
    try:
        return version("ray")
    except PackageNotFoundError:
        return "2.60.0"
