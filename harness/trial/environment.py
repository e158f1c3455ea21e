"""What a figure must name: commit, machine, versions, the driver's command."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from harness import command
from harness.disk import ROOT

CODE = ("harness", "backbones", "experiments", "cli.py")  # where a file that is in no commit may be code


def environment(device: torch.device) -> dict[str, Any]:
    """What a figure must name: commit, machine, versions, the driver's command without passwords."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {p: _version(p) for p in ("torch", "torchvision", "torch-fidelity", "ray", "mlflow", "numpy")},
        "machine": {"system": platform.platform(), "cpu": platform.processor() or platform.machine()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "argv": command.words(),
    }


def commit() -> str:
    """The checkout's commit, with `+` when tracked files differ from it or code is in no commit; the version where
    there is no git."""
    if shutil.which("git") and (ROOT / ".git").exists():
        head = _git(ROOT, "rev-parse", "--short=12", "HEAD")
        if head:
            changed = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
            new = _git(ROOT, "ls-files", "--others", "--exclude-standard", "--", *CODE)
            return head + ("+" if changed or new else "")
    return f"v{_version('nashboard')}"


def _git(where: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
