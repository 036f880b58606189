"""cluster.yaml is valid by Ray's own schema, scales GPUs from zero, and installs this project."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import yaml

ROOT = Path(__file__).parents[1]


def test_cluster_yaml_is_valid_by_rays_schema() -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds
    assert kinds["gpu"]["min_workers"] == 0
    assert kinds["gpu"]["node_config"]["InstanceType"].startswith("g5.")
    assert any("make setup" in command for command in config["setup_commands"])
