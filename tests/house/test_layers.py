"""The architecture, enforced: imports go downwards, and some go nowhere.

Each module has a layer. A module may import from lower layers and from its own, never from a higher one,
and never so that the imports form a circle. What stands under `if TYPE_CHECKING:` is exempt, since it
never happens; an import inside a function is not.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from support.imports import Import, import_graph, package_imports, package_modules
from support.repo import PACKAGE

# A module stands here under its own name, one of a subpackage under the subpackage's.
LAYERS = {
    # 0: words everybody uses
    "types": 0,
    "errors": 0,
    # 1: parts that know nothing of training
    "rng": 1,
    "snapshot": 1,
    "bare": 1,
    "copies": 1,
    "tensors": 1,
    "batch": 1,
    "split": 1,
    "data": 1,
    "shapes": 1,
    "patches": 1,
    "metrics": 1,
    "history": 1,
    "lazy": 1,
    "proxy": 1,
    "pictures": 1,
    "placement": 1,
    "progress": 1,
    "readout": 1,
    "utils": 1,
    "schedules": 1,
    # 2: what a run is made of
    "optimizer": 2,
    "figures": 2,
    "execution": 2,
    "signals": 2,
    "storage": 2,
    "lock": 2,
    "checkpoint": 2,
    "run": 2,
    "weights": 2,
    # 3: what the loop talks through
    "events": 3,
    "hooks": 3,
    "checks": 3,
    "handles": 3,
    "display": 3,
    "monitor": 3,
    "foreseen": 3,
    # 4: what the loop works with
    "callbacks": 4,
    "task": 4,
    "bound": 4,
    "binding": 4,
    "plan": 4,
    "fits": 4,
    "scope": 4,
    "state": 4,
    "ending": 4,
    "reporting": 4,
    "legacy": 4,
    "evaluation": 4,
    "compiling": 4,
    "memory": 4,
    "assembly": 4,
    "explain": 4,
    "resume": 4,
    "summary": 4,
    "probe": 4,
    "dry_runs": 4,
    "idle": 4,
    "tools": 4,
    "doctor": 4,
    # 5: the loop
    "trainer": 5,
    # 6: what users see of all that
    "compat": 6,
    "__init__": 6,
}

# Of one layer, yet strangers to each other: the loop brings them together.
STRANGERS = frozenset({"callbacks", "task"})
MAY_IMPORT_TRAINER = frozenset({"__init__", "compat"})
MAY_TOUCH_DISTRIBUTED = frozenset({"execution"})


def place(module: str) -> str:
    """Name the row of LAYERS that a dotted module name belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def unplaced(modules: dict[str, Path]) -> list[str]:
    return sorted(module for module in modules if place(module) not in LAYERS)


def wrong_imports(modules: dict[str, Path], imports: list[Import]) -> list[str]:
    """List the imports that break a rule, each with the rule it breaks."""
    wrong = []
    for one in imports:
        if one.type_only or one.target not in modules:
            continue
        source, target = place(one.importer), place(one.target)
        where = f"{one.importer}, line {one.line}, imports {one.target}"
        if source not in LAYERS or target not in LAYERS:
            continue  # test_every_module_has_its_layer speaks of these
        if LAYERS[source] < LAYERS[target]:
            wrong.append(f"{where}: layer {LAYERS[source]} must not import from layer {LAYERS[target]}")
        if source != target and {source, target} == STRANGERS:
            wrong.append(f"{where}: callbacks and task must not know each other")
        if target == "trainer" and source not in {"trainer", *MAY_IMPORT_TRAINER}:
            wrong.append(f"{where}: only {sorted(MAY_IMPORT_TRAINER)} may import the trainer")
    return wrong


def cycle(modules: dict[str, Path], imports: list[Import]) -> list[str]:
    """Return modules that import each other in a circle, or an empty list."""
    try:
        TopologicalSorter(import_graph(modules, imports)).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))  # graphlib names the imported one first
    return []


def distributed_mentions(modules: dict[str, Path], imports: list[Import]) -> list[str]:
    """List the uses of torch.distributed, imported or reached as an attribute, outside its place."""
    found = set()
    for one in imports:
        if f"{one.target}.".startswith("torch.distributed."):
            found.add((one.importer, one.line))
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed":
                found.add((module, node.lineno))
    return [f"{module}, line {line}" for module, line in sorted(found) if place(module) not in MAY_TOUCH_DISTRIBUTED]


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    return package_modules(PACKAGE)


@pytest.fixture(scope="module")
def imports(modules: dict[str, Path]) -> list[Import]:
    return package_imports(modules)


def test_every_module_has_its_layer(modules: dict[str, Path]) -> None:
    missing = unplaced(modules)
    assert not missing, f"place these in LAYERS, as low as what they import allows: {missing}"


def test_every_layer_has_its_module(modules: dict[str, Path]) -> None:
    gone = sorted(set(LAYERS) - {place(module) for module in modules})
    assert not gone, f"LAYERS speaks of modules that don't exist (any more): {gone}"


def test_imports_go_downwards(modules: dict[str, Path], imports: list[Import]) -> None:
    wrong = wrong_imports(modules, imports)
    assert not wrong, "\n".join(wrong)


def test_imports_form_no_circle(modules: dict[str, Path], imports: list[Import]) -> None:
    circle = cycle(modules, imports)
    assert not circle, " imports ".join(circle)


def test_torch_distributed_stays_inside_execution(modules: dict[str, Path], imports: list[Import]) -> None:
    mentions = distributed_mentions(modules, imports)
    assert not mentions, f"torch.distributed outside execution/: {mentions}"


# The rules above are only as good as what reads the sources: packages made up to break each of them.


def made_up(root: Path, **sources: str) -> tuple[dict[str, Path], list[Import]]:
    package = root / "pkg"
    for name, source in {"__init__": "", **sources}.items():
        path = package / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    modules = package_modules(package)
    return modules, package_imports(modules)


@pytest.mark.parametrize(
    "statement",
    [
        "import pkg.trainer",
        "from pkg import trainer",
        "from pkg.trainer import Trainer",
        "from pkg.trainer import *",
        "from . import trainer",
        "from .trainer import Trainer",
        "def f():\n    from .trainer import Trainer",
        "try:\n    import pkg.trainer as t\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('pkg.trainer')",
        "from importlib import import_module\nimport_module('.trainer', __package__)",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from .trainer import Trainer",
    ],
)
def test_an_import_upwards_is_found(tmp_path: Path, statement: str) -> None:
    modules, imports = made_up(tmp_path, trainer="class Trainer: ...", rng=statement)
    layer, only = wrong_imports(modules, imports)
    assert layer.startswith("pkg.rng, line ")
    assert layer.endswith("imports pkg.trainer: layer 1 must not import from layer 5")
    assert "may import the trainer" in only


@pytest.mark.parametrize("name", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_an_import_for_type_checkers_is_exempt(tmp_path: Path, name: str) -> None:
    rng = f"if {name}:\n    from .trainer import Trainer"
    modules, imports = made_up(tmp_path, trainer="from . import rng", rng=rng)
    assert not wrong_imports(modules, imports)
    assert not cycle(modules, imports)


def test_downwards_and_sideways_imports_pass(tmp_path: Path) -> None:
    modules, imports = made_up(
        tmp_path,
        errors="",
        rng="from .errors import E",
        batch="from .rng import f",
        trainer="from pkg import batch, rng\nimport torch",
        compat="from .trainer import Trainer",
    )
    assert not unplaced(modules)
    assert not wrong_imports(modules, imports)
    assert not cycle(modules, imports)


def test_callbacks_and_task_are_kept_apart(tmp_path: Path) -> None:
    modules, imports = made_up(
        tmp_path, callbacks__in____init__="", callbacks__in__base="from ..task import EpochTask", task=""
    )
    assert wrong_imports(modules, imports) == [
        "pkg.callbacks.base, line 1, imports pkg.task: callbacks and task must not know each other"
    ]


def test_the_public_face_is_no_way_around(tmp_path: Path) -> None:
    modules, imports = made_up(tmp_path, rng="from pkg import Trainer")
    assert wrong_imports(modules, imports) == [
        "pkg.rng, line 1, imports pkg: layer 1 must not import from layer 6",
    ]


def test_a_circle_is_found(tmp_path: Path) -> None:
    modules, imports = made_up(tmp_path, rng="from .batch import a", batch="def f():\n    from .rng import b")
    assert set(cycle(modules, imports)) == {"pkg.rng", "pkg.batch"}


def test_a_circle_through_a_subpackage_is_found(tmp_path: Path) -> None:
    # Importing patches.base runs patches/__init__.py, which imports metrics again.
    modules, imports = made_up(
        tmp_path,
        metrics="from .patches.base import Patch",
        patches__in____init__="from .confusion import C",
        patches__in__base="",
        patches__in__confusion="from ..metrics import accuracy",
    )
    assert cycle(modules, imports)


def test_neighbours_in_a_subpackage_may_import_each_other(tmp_path: Path) -> None:
    modules, imports = made_up(
        tmp_path,
        patches__in____init__="from .mean import M",
        patches__in__base="",
        patches__in__mean="from . import base\nfrom .base import Patch",
    )
    assert not cycle(modules, imports)


def test_an_unplaced_module_is_found(tmp_path: Path) -> None:
    modules, _ = made_up(tmp_path, newcomer="")
    assert unplaced(modules) == ["pkg.newcomer"]


@pytest.mark.parametrize(
    "statement",
    [
        "import torch.distributed as dist",
        "import torch.distributed.fsdp",
        "from torch import distributed",
        "from torch.distributed import barrier",
        "import torch\nif torch.distributed.is_initialized(): pass",
        "def f():\n    import torch\n    return torch.distributed",
    ],
)
def test_torch_distributed_is_found(tmp_path: Path, statement: str) -> None:
    modules, imports = made_up(tmp_path, rng=statement, execution__in__ddp=statement)
    mentions = distributed_mentions(modules, imports)
    assert mentions
    assert all(mention.startswith("pkg.rng, ") for mention in mentions)
