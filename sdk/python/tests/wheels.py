"""Wheels to install from without a network: the SDK's, and those of packages that are installed here, made up again."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

PROJECT = Path(__file__).parent.parent
# What pip is told, so that it takes nothing from anywhere else.
OFFLINE = ("--isolated", "--quiet", "--no-index", "--disable-pip-version-check")
# Who has installed a package and why is said of the installation, not of the package.
_OF_THE_INSTALLATION = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")


def build(folder: Path) -> Path:
    """The SDK's wheel."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (wheel,) = folder.glob("waypost-*.whl")
    return wheel


def pack(name: str, folder: Path) -> None:
    """The wheel of a package in pure Python, as it is installed here."""
    package = distribution(name)
    files = [each for each in package.files or () if each.suffix != ".pyc" and each.name not in _OF_THE_INSTALLATION]
    with zipfile.ZipFile(folder / f"{name}-{package.version}-py3-none-any.whl", "w") as wheel:
        for each in files:
            wheel.write(str(package.locate_file(each)), each.as_posix())
        (metadata,) = {
            each.parent for each in files if each.parent.name.endswith(".dist-info") and each.name == "METADATA"
        }
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{each.as_posix()},,\n" for each in files))
