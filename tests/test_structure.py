"""Rules of the code base: who may import whom, what stays light, how long a file may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platform" / "remora"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    {"errors", "prerequisites"},
    {"carrier", "versions"},
    {"extras", "files", "notebook", "processes"},
    {"sharing"},
    {"spec"},
    {"catalog", "token_ids"},
    {"batch", "data"},
    {"model", "reading"},
    {"exchange"},
    {"inference"},
    {"training"},
    {"condense", "demo", "evaluation", "runs"},
    {"tracking"},
    {"pipeline"},
    {"cluster", "planning"},
    {"reporting"},
    {"serving"},
    {"commands", "cli", "__main__", "__init__"},
]
"""From the ground up (docs/architecture.md). A room imports from the floors below it, never from its own or above."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
TOP = FLOORS[-1]

ONLY_IN = {
    "ray": ("cluster/", "serving/"),
    "deepspeed": ("training/engines/",),
    "mlflow": ("tracking/",),
    "torch": (
        *("batch.py", "model/", "reading/", "exchange/", "condense/", "inference/", "training/"),
        *("pipeline/", "cluster/", "serving/"),
    ),
}


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, `from remora import catalog` as remora.catalog."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"remora.{a.name}" for a in node.names} if node.module == "remora" else {node.module}
    return found


def own(path: Path) -> set[str]:
    return {m for m in imports(path) if m.startswith("remora.") and m != "remora.__version__"}


def ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_room_has_its_floor():
    assert {room_of(p) for p in MODULES} == set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_room_imports_from_the_floors_below_it(path):
    room = room_of(path)
    for module in own(path):
        other = module.split(".")[1]
        if other != room and not {room, other} <= TOP:
            assert FLOOR[other] < FLOOR[room], f"{room} imports {module}"


def test_the_ends_of_the_house_meet_where_they_should():
    users = {room_of(p) for p in MODULES if any(m.startswith("remora.tracking") for m in own(p))}
    assert users <= {"tracking", "pipeline", "cluster", "serving"} | TOP
    of_cluster = {m for p in MODULES if room_of(p) == "serving" for m in own(p) if m.startswith("remora.cluster")}
    assert of_cluster <= {"remora.cluster.session"}
    assert not any(module.startswith("remora.commands") for p in MODULES if room_of(p) not in TOP for module in own(p))


def type_names(path: Path) -> set[str]:
    """The classes that a file defines, and the aliases (`Turns = list[Turn]`) at its top level."""
    tree = ast.parse(path.read_text())
    aliases = {
        node.targets[0].id
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Subscript | ast.BinOp)
        and re.match(r"[A-Z]\w*[a-z]", node.targets[0].id)
    }
    return aliases | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@pytest.mark.slow
def test_the_name_of_a_type_is_defined_once():
    found: dict[str, list[str]] = {}
    for path in MODULES:
        for name in type_names(path):
            found.setdefault(name, []).append(ids(path))
    assert not {name: places for name, places in found.items() if len(places) > 1}


@pytest.mark.parametrize(("library", "places"), ONLY_IN.items(), ids=ONLY_IN)
def test_a_library_is_imported_in_its_place_alone(library, places):
    users = {ids(p) for p in MODULES if any(m.split(".")[0] == library for m in imports(p))}
    assert users and all(user.startswith(places) for user in users), users


def test_what_people_look_at_is_drawn_in_reporting():
    """Others print lines on the console that they are given."""
    drawing = {ids(p): {m for m in imports(p) if m.startswith("rich") and m != "rich.console"} for p in MODULES}
    assert not {place for place, used in drawing.items() if used and not place.startswith("reporting/")}


PRIVATE = re.compile(r"\bray(\.\w+)*\._(?!_)\w|from ray[\w.]* import .*\b_\w")


def test_nothing_of_rays_is_private():
    """Ray's names with an underscore change with any release, and would pin every user to one."""
    for folder in ("platform", "tests", "benchmarks", "jobs", "tune", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not PRIVATE.findall(path.read_text()), path


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_a_file_says_what_it_is_for_and_is_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= 400


def test_every_file_of_the_tests_says_what_it_holds():
    for path in (ROOT / "tests").rglob("*.py"):
        assert path.name != "__init__.py", path
        assert ast.get_docstring(ast.parse(path.read_text())), path


LIGHT = tuple(f"tests/{room}" for room in ("catalog", "data", "planning", "reporting", "runs", "spec"))
"""Whose tests start without torch. planning/sizes.py builds modules, so its tests import it when they run."""


@pytest.mark.slow
def test_tests_of_a_room_without_torch_are_collected_without_it():
    ban = "import sys, pytest; sys.modules['torch'] = None; sys.exit(pytest.main(sys.argv[1:]))"
    assert "tests collected" in python("-c", ban, "--collect-only", "-q", *LIGHT).stdout


def python(*args: str) -> subprocess.CompletedProcess[str]:
    """Another Python in the repository's root, as a person there would start it."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=True)


def test_the_standard_librarys_platform_is_not_shadowed():
    assert not (ROOT / "platform" / "__init__.py").exists()
    said = python("-c", "import platform; print(platform.system(), platform.__file__)").stdout.split()
    assert said[0] == os.uname().sysname
    assert not Path(said[1]).is_relative_to(ROOT / "platform")


def test_nor_is_it_for_pytest():
    import platform

    assert platform.system() == os.uname().sysname


def test_help_is_light():
    asked = python("-X", "importtime", "-m", "remora", "--help")
    assert "search" in asked.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in asked.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {
        "torch",
        "ray",
        "mlflow",
        "transformers",
        "deepspeed",
        "numpy",
        "PIL",
        "pydantic",
        "yaml",
        "rich",
    }


def test_who_places_work_loads_no_torch():
    """A command, a trial and the process that waits for workers: 4 s each on two cores, before anything begins."""
    code = (
        "import sys, remora.commands.run, remora.cluster.session, remora.cluster.search, remora.pipeline.variant\n"
        "assert not {'torch', 'transformers', 'ray', 'mlflow'} & sys.modules.keys()"
    )
    python("-c", code)


def test_who_starts_workers_loads_no_torch():
    """What a command makes and Ray's controller unpickles: 1.5 s each, one after the other, before a worker starts."""
    code = (
        "import sys, cloudpickle\n"
        "from pathlib import Path\n"
        "from remora.cluster.train import _trainer\n"
        "from remora.spec import Cluster\n"
        "trainer = _trainer(Path('/feed'), Cluster(), Path('/r'), 'it', Path('/r/ray'))\n"
        "cloudpickle.loads(cloudpickle.dumps((trainer.train_loop_per_worker, trainer.backend_config.backend_cls)))\n"
        "assert not {'torch', 'transformers', 'mlflow'} & sys.modules.keys()"
    )
    python("-c", code)


def test_the_newest_decisions_come_first():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        days = re.findall(r"(?m)^## (\d{4}-\d\d-\d\d) · .*\n\n\*(?:Current|Superseded)", page.read_text())
        assert days == sorted(days, reverse=True) and len(days) == page.read_text().count("\n## "), page
