"""Code run as users of other numbers, which only root can do: a lock, a door and a file are tried by who may not."""

import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALICE, BOB = 60001, 60002  # nobody's on a usual system, and no names are needed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be tried by root")
BECOME = "import os; os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
SELF = os.getuid()


def run_as(uid: int, imports: str, code: str, **environment: str) -> "subprocess.Popen[str]":
    """A process that imports as we do and then is user `uid`: what is closed to him is so for `code` alone."""
    script = f"{imports}\n{'' if uid == SELF else BECOME.format(uid=uid)}{code}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=env, cwd="/", text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said_as(uid: int, imports: str, code: str, **environment: str) -> str:
    """What that process printed, once it has ended."""
    return run_as(uid, imports, code, **environment).communicate(timeout=60)[0].strip()


def command_as(uid: int) -> list[str]:
    """The words before a command that make `uid` run it."""
    return [] if uid == SELF else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]


@cache
def python_for_all(place: Path) -> tuple[str, str]:
    """(interpreter, PYTHONPATH) with which every user can run a copy of this project, made in the folder `place`."""
    code = place / "code"
    for name in ("harness", "backbones", "experiments"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", code)
    packages = sysconfig.get_path("purelib")
    python = Path(sys.executable)
    shell = [*command_as(ALICE if SELF == 0 else SELF), "sh", "-c"]  # a shell: setpriv itself may still enter
    if subprocess.run([*shell, f"{python} -c 'import torch'"], cwd="/", capture_output=True).returncode:
        # It is under a home that is shut, like /root.
        base = Path(sys.base_prefix)
        leave = shutil.ignore_patterns("site-packages", "test", "__pycache__", "*.a", "share", "include")
        shutil.copytree(base, place / "python", ignore=leave, symlinks=True)
        python = place / "python" / "bin" / python.resolve().name
    subprocess.run(["chmod", "-R", "a+rX", place], check=True)
    return str(python), f"{code}{os.pathsep}{packages}"
