"""Writes ``requirements-dev.lock``: exact versions of all that the project, its build and its tests need.

Not for: installing anything; ``setup.sh`` does that.  It takes the newest versions that ``pyproject.toml`` allows,
in an environment of its own that is thrown away.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
HEADER = "# Written by `make lock` from pyproject.toml; every version is exact.\n"

# What hatchling asks for beyond its own requirements when it makes an editable install.
EDITABLE = ["editables"]


def main() -> int:
    """Write the lock file; return the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *EDITABLE,
        *project["project"]["dependencies"],
        *(name for extra in project["project"].get("optional-dependencies", {}).values() for name in extra),
        *project["dependency-groups"]["dev"],
    ]
    with tempfile.TemporaryDirectory(prefix="snaptree-lock-") as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        installed = subprocess.run([*pip, "install", "--quiet", *wanted], check=False)
        if installed.returncode:
            return installed.returncode
        frozen = subprocess.run([*pip, "freeze"], capture_output=True, text=True, check=True).stdout
    lines = sorted(frozen.splitlines(), key=str.lower)
    wrong = [line for line in lines if "==" not in line]
    if wrong:
        print(f"Not a released version: {', '.join(wrong)}. {LOCK.name} is as it was.", file=sys.stderr)
        return 1
    LOCK.write_text(HEADER + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
