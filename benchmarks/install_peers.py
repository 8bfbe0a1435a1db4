"""Make the environment of the peers, and say which of them could not be installed.

`make bench-peers` runs this with any Python that has pip; nothing but the standard library is imported. Each peer is
installed by itself, so that one that cannot be had takes no other with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-peers"
FAILURES = FOLDER / "failures.json"

#: What is installed, by the name under which the peer is listed in the table.
PACKAGES = {
    "ignite": "pytorch-ignite",
    "skorch": "skorch",
    "lightning": "lightning",
    "accelerate": "accelerate",
    "torchtnt": "torchtnt setuptools<81",  # it imports pkg_resources, which later ones lack
    "poutyne": "poutyne",
    "fastai": "fastai",
    "transformers": "transformers",
    "keras": "keras",
}


#: Everybody gets the same torch.
CONSTRAINED = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}


def pip(*arguments: str) -> str:
    """Call pip in the environment; the reason where that fails, else an empty string."""
    python = FOLDER / "bin" / "python"
    command = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=CONSTRAINED, capture_output=True, text=True)
    reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "" if done.returncode == 0 else (reasons or done.stderr.splitlines() or ["pip failed"])[-1]


def drop_useless() -> None:
    """Take out a torchvision that was built for another torch: those who find it there fail, nobody needs it."""
    python = str(FOLDER / "bin" / "python")
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode:
        pip("uninstall", "--yes", "torchvision")


def main() -> int:
    """Install everything; the exit code says whether the environment is of any use."""
    if not FOLDER.exists():
        venv.create(FOLDER, with_pip=True)
    (FOLDER / ".gitignore").write_text("*\n", encoding="utf-8")
    # The library comes from the checkout, with what the workloads need: the same torch for all.
    if reason := pip("install", "-e", ".[examples]"):
        print(f"deepepochs_like itself could not be installed: {reason}")
        return 1
    failures = {}
    for name, package in PACKAGES.items():
        print(f"installing {package}", flush=True)
        if reason := pip("install", *package.split()):
            failures[name] = reason
            print(f"  failed: {reason}", flush=True)
    drop_useless()
    FAILURES.write_text(json.dumps(failures, indent=2) + "\n", encoding="utf-8")
    print(
        f"installed {len(PACKAGES) - len(failures)} of {len(PACKAGES)} peers; failed: {', '.join(failures) or 'none'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
