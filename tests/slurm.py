"""A real SLURM of two nodes, a core each, on this one machine: for tests of experiments/slurm.sh.

Needs root and Debian's packages slurm-wlm and munge. All that it writes lies in one folder, but for a line in
/etc/hosts while it runs; it listens on loopback, at free ports, with a munge of its own.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")
HOSTS = Path("/etc/hosts")
NAMES = ("nash1", "nash2")
CONF = """
ClusterName=nashboard
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
KillWait=10
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=nash1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000 State=UNKNOWN
NodeName=nash2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# cred_expire: a job put into the queue again waits for as long as the tickets of its former life are good.


def lacking() -> str:
    """Why there can be no SLURM here; "" where there must be one."""
    gone = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    return "needs root" if os.geteuid() else f"no {', '.join(gone)}: apt-get install slurm-wlm munge" if gone else ""


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands meet this SLURM, while it runs. `folder`: an absolute, short path."""
    for name in ("state", "spool-nash1", "spool-nash2"):
        (folder / name).mkdir(parents=True)
    conf, key = folder / "slurm.conf", folder / "munge.key"
    conf.write_text(CONF.format(folder=folder, host=socket.gethostname(), ports=_free_ports(3)))
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {"SLURM_CONF": str(conf), "PATH": _path()}
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    munge |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    ours = " ".join(["127.0.0.1", *NAMES])
    with HOSTS.open("a") as f:
        f.write(f"{ours}\n")  # by these names Ray's nodes find each other
    try:
        _call(["munged", "--force", *(f"--{k}={v}" for k, v in munge.items())], env)
        _call(["slurmctld", "-c", "-f", str(conf)], env)
        for name in NAMES:
            _call(["slurmd", "-f", str(conf), "-N", name], env)
        deadline = time.monotonic() + 60
        while _call(["sinfo", "-h", "-N", "-o", "%T"], env).split() != ["idle"] * 2:
            assert time.monotonic() < deadline, (folder / "ctld.log").read_text()[-3000:]
            time.sleep(0.5)
        yield env
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            _call(["scancel", "--user=root"], env)
            _await_empty_queue(env)
        for pid in (*(f"slurmd-{name}.pid" for name in NAMES), "ctld.pid", "munge.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / pid).read_text()), signal.SIGTERM)
        # In place: in a container the file itself is mounted.
        HOSTS.write_text("".join(f"{line}\n" for line in HOSTS.read_text().splitlines() if line.strip() != ours))


def _await_empty_queue(env: dict[str, str], limit_s: float = 30) -> None:
    """The end of a job is the end of its Ray; a daemon that went first would leave that behind."""
    deadline = time.monotonic() + limit_s
    while _call(["squeue", "-h"], env) and time.monotonic() < deadline:
        time.sleep(0.5)


def _call(command: list[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise subprocess.SubprocessError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
