"""The wheel as a user gets it: built, looked into, installed beside nothing of the checkout, and used."""

from __future__ import annotations

import email
import email.message
import json
import math
import os
import re
import subprocess
import sys
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

from support.repo import PACKAGE, ROOT

pytestmark = [
    pytest.mark.slow,
    # One worker, one wheel: the fixtures below are made once.
    pytest.mark.xdist_group("wheel"),
]

CORE = {"torch", "torchmetrics", "tensorboard", "rich", "numpy"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints; its whole output is the message where it fails."""
    # PYTHONPATH could bring the checkout back in.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1", "HOME": str(cwd)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment that holds the wheel, with the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel,
        cwd=folder.parent)  # fmt: skip

    # The folders with torch and the others come last on its path. A folder that a .pth file names is only
    # searched: .pth files inside it, such as that of an editable install, are not read again.
    borrowed = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder.parent).strip()
    Path(own, "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return python


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = {name for name in names if re.fullmatch(r"deepepochs_like-[^/]+\.dist-info/.+", name)}
    sources = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    assert names - info == sources | {"deepepochs_like/py.typed"}
    assert any(name.endswith("/licenses/LICENSE") for name in info)


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert sorted(folder.name for folder in folders if not (folder / "__init__.py").exists()) == []


def test_wheel_asks_for_the_five_core_dependencies_only(metadata: email.message.Message) -> None:
    required = [str(line) for line in metadata.get_all("Requires-Dist", [])]
    core = {re.match(r"[\w.-]+", line).group().lower() for line in required if "extra ==" not in line}  # type: ignore[union-attr]
    assert core == CORE


def test_metadata(metadata: email.message.Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"plot", "accelerate", "yaml", "examples", "dev"}


def test_installed_wheel_trains(installed: Path, tmp_path: Path) -> None:
    output = run(
        installed,
        "-I",  # nothing from the environment, the working directory or the user's own site-packages
        "-c",
        textwrap.dedent(
            """
            import json

            import torch
            from torch.utils.data import DataLoader, TensorDataset

            import deepepochs_like
            from deepepochs_like import Trainer

            torch.manual_seed(0)
            data = TensorDataset(torch.randn(32, 4), torch.randint(0, 3, (32,)))
            model = torch.nn.Linear(4, 3)
            trainer = Trainer(
                model,
                torch.nn.CrossEntropyLoss(),
                torch.optim.SGD(model.parameters(), lr=0.1),
                epochs=2,
                device="cpu",
                show_info=False,
            )
            history = trainer.fit(DataLoader(data, batch_size=8, shuffle=True), DataLoader(data, batch_size=16))
            losses = {stage: [float(value) for value in history[stage]["loss"]] for stage in ("train", "val")}
            print()
            print(json.dumps({"file": deepepochs_like.__file__, "losses": losses}))
            """
        ),
        cwd=tmp_path,
    )
    said = json.loads(output.splitlines()[-1])
    environment = installed.parents[1].resolve()
    assert environment in Path(said["file"]).resolve().parents
    assert ROOT not in Path(said["file"]).resolve().parents
    for losses in said["losses"].values():
        assert len(losses) == 2
        assert all(math.isfinite(loss) for loss in losses)
    assert list(tmp_path.iterdir()) == [], "a bare fit writes no file"
