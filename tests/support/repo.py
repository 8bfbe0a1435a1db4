"""Where the checkout lies and which files belong to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "deepepochs_like"


def project_files() -> list[Path] | None:
    """List the files of the project: tracked ones, and new ones that git does not ignore.

    Returns:
        Existing files as absolute paths, or None where the sources are no git checkout.
    """
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return sorted({path for path in paths if path.is_file()})
