"""Two users of one machine, and what a matrix opens while it runs: who else can reach it, and what he can do there.

`make doors` writes what was found into docs/security.md. Only root can be two users: who is not looks at the doors
alone, and knocks at them himself.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from harness.orchestration.cluster import MARK
from tests.two_users import ALICE, BOB, ROOT, SELF, command_as, needs_root, python_for_all, said_as

USER, STRANGER = (ALICE, BOB) if SELF == 0 else (SELF, SELF)

EXPERIMENT = """
name: one
preset: tiny32
dataset: {name: synthetic, resolution: 32, num_images: 64}
backbone: {z_dim: 16, w_dim: 16, mapping_layers: 2, channel_base: 128, channel_max: 8}
train: {total_kimg: 0.128, batch_size: 8, batch_gpu: 4, tick_kimg: 0.032, snapshot_kimg: 0.064, r1_interval: 3}
arms: {baseline: {}}
eval: {num_fakes: 64, batch_size: 8, metrics: [disequilibrium]}
run: {device: cpu}
"""
LONG = ("--set", "train.total_kimg=40", "--set", "train.snapshot_kimg=40")
BEGIN, END = "<!-- found by `make doors` -->", "<!-- end -->"
SECRETS = ("RAY_AUTH_TOKEN",)


class Home:
    """A user's folder, in a place that all users share, and what he starts there."""

    def __init__(self, place: Path, uid: int, code: tuple[str, str]) -> None:
        self.uid, self.code, self.place = uid, code, place
        self.folder = place / f"home{uid}"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "one.yaml").write_text(EXPERIMENT)
        for path in (self.folder, self.folder / "one.yaml"):
            os.chown(path, uid, uid if uid != SELF else -1)

    def matrix(self, *words: str, results: str = "results", **environment: str) -> "subprocess.Popen[str]":
        python, path = self.code
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.folder), "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.place),
            "LD_LIBRARY_PATH": str(Path(python).parents[1] / "lib"),  # a copy knows but where the original's lie
            "RAY_raylet_start_wait_time_s": "180", **environment,  # on a busy machine
        }  # fmt: skip
        cli = Path(path.split(os.pathsep)[0]) / "cli.py"
        line = [python, str(cli), "matrix", "one.yaml", "--results", results, *words]
        return subprocess.Popen(
            [*command_as(self.uid), *line], cwd=self.folder, env=env, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def metrics(self, results: str = "results") -> object:
        (path,) = self.folder.glob(f"{results}/trials/*/result.json")
        return json.loads(path.read_text())["metrics"]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A temporary folder for all users, as /tmp is; its name is short, for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="nb", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    for process in psutil.process_iter(["uids"]):
        with contextlib.suppress(psutil.Error):
            if process.info["uids"].real in (ALICE, BOB) and SELF == 0:
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def homes(place: Path) -> tuple[Home, Home]:
    code = python_for_all(place)
    return Home(place, USER, code), Home(place, STRANGER, code)


def ended(process: "subprocess.Popen[str]", timeout_s: float = 400) -> tuple[int, str]:
    out = process.communicate(timeout=timeout_s)[0]
    return process.returncode, out


def until_it_trains(driver: "subprocess.Popen[str]", home: Home, results: str, timeout_s: float = 300) -> None:
    """Wait until a trial is in its loop."""
    deadline = time.monotonic() + timeout_s
    while not any(f.stat().st_size for f in home.folder.glob(f"{results}/trials/*/*events.jsonl*")):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, [f.read_text() for f in home.folder.glob(f"{results}/*/driver.log")]
        time.sleep(0.2)


@pytest.mark.slow
@needs_root
def test_two_users_run_a_matrix_one_after_the_other_and_at_once(place, homes):
    alice, bob = homes
    before = set(Path("/tmp").iterdir())
    for user in (alice, bob):  # one after the other, MLflow's database and all
        code, out = ended(user.matrix())
        assert code == 0, out
    assert alice.metrics() == bob.metrics()

    first = alice.matrix(*LONG, "--tracking-uri", "off", results="long")
    until_it_trains(first, alice, "long")
    code, out = ended(bob.matrix("--tracking-uri", "off", results="second"))
    who = f"this machine: another driver (process {first.pid} of user {ALICE} on {socket.gethostname()})"
    assert code == 3 and who in out and "Traceback" not in out, out
    code, out = ended(bob.matrix("--tracking-uri", "off", "--local", results="local"))
    assert code == 0, out
    own = bob.folder / "tmp"
    own.mkdir()
    os.chown(own, BOB, BOB)
    code, out = ended(bob.matrix("--tracking-uri", "off", results="beside", TMPDIR=str(own)))
    assert code == 0, out
    assert first.poll() is None, first.communicate()[0]
    first.terminate()
    assert ended(first)[0] == 130
    code, out = ended(bob.matrix("--tracking-uri", "off", results="after"))
    assert code == 0, out
    assert bob.metrics("local") == bob.metrics("beside") == bob.metrics("after") == alice.metrics()

    for user in (alice, bob):
        assert not (user.folder / ".ray").exists()  # a token of Ray's would be for all to read
    left = [p for folder in (place, Path("/tmp")) for p in folder.iterdir() if p not in before]
    for path in (p for p in left if p.lstat().st_uid in (ALICE, BOB) and not p.name.startswith("home")):
        assert path.lstat().st_mode & 0o077 == 0, f"{path}: open to others"


# ── what listens ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Door:
    """Something that a process waits at. `address`: "ip:port", a socket's path, or "@name"."""

    program: str
    kind: str
    address: str


def doors(driver: int) -> set[Door]:
    """All that the driver and the processes it began wait at."""
    family = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(driver) and process not in family:
                family.append(process)
    waiting = {
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.split()[3] == "00010000"
    }
    found = set()
    for process in family:
        with contextlib.suppress(psutil.Error):
            name = process.name().split()[0]
            for c in process.net_connections("all"):
                if c.family == socket.AF_UNIX and c.laddr and c.laddr in waiting:
                    found.add(Door(name, "unix", str(c.laddr)))
                elif c.family != socket.AF_UNIX and c.status == psutil.CONN_LISTEN:
                    found.add(Door(name, "tcp", f"{c.laddr.ip}:{c.laddr.port}"))
                elif c.family != socket.AF_UNIX and c.type == socket.SOCK_DGRAM and not c.raddr:
                    found.add(Door(name, "udp", f"{c.laddr.ip}:{c.laddr.port}"))
    return found


def reach(door: Door) -> str:
    """Who gets as far as the door."""
    if door.kind == "unix":
        shut = any(p.is_dir() and not p.stat().st_mode & 0o077 for p in Path(door.address).parents)
        return _knock_at_socket(door.address) if STRANGER != USER else "its user" if shut else "this machine"
    ip = door.address.rpartition(":")[0].removeprefix("::ffff:")
    return "this machine" if ip.startswith("127.") or ip == "::1" else "the network"


def _knock_at_socket(path: str) -> str:
    """As another user."""
    name = path.replace("@", "\0", 1) if path.startswith("@") else path
    code = f"s = socket.socket(socket.AF_UNIX)\ntry: s.connect({name!r}); print('this machine')\n"
    return said_as(STRANGER, "import socket", code + "except PermissionError: print('its user')")


def ask_ray(address: str, token: str | None) -> str:
    """What Ray answers at `address` to another user who has this token, or none."""
    mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    code = f"""
try:
    print(len(GcsClient(address={address!r}).get_all_node_info(timeout=5)), "nodes")
except Exception as e:
    said = type(e).__name__ + " " + str(e)
    print("refused" if "auth" in said.lower() else "no answer: " + said[:90])
"""
    return said_as(STRANGER, "from ray._raylet import GcsClient", code, **mode).splitlines()[-1]


def ask_http(address: str) -> str:
    """What a web server at `address` says to another user's request for Ray's service there."""
    code = f"""
try:
    r = urllib.request.Request("http://{address}/get_runtime_envs_info", b"", method="POST")
    print(urllib.request.urlopen(r, timeout=5).status)
except urllib.error.HTTPError as e:
    print("refused" if e.code in (401, 403) else e.code)
except Exception as e:
    print("no answer:", type(e).__name__)
"""
    return said_as(STRANGER, "import urllib.request, urllib.error, http.client, encodings.idna", code)


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def test_a_door_is_seen_with_all_who_can_reach_it(place):
    """Else a scan that finds nothing would say nothing."""
    (place / "shut").mkdir(mode=0o700)
    code = f"""
import os, socket
tcp = [socket.create_server((ip, 0)) for ip in ("0.0.0.0", "127.0.0.1")]
udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 0))
paths = {str(place / "open")!r}, {str(place / "shut" / "x")!r}, "\\0nashboard-test-{os.getpid()}"
unix = [socket.socket(socket.AF_UNIX) for _ in paths]
for s, path in zip(unix, paths): s.bind(path); s.listen()
os.chmod(paths[0], 0o777)
print("open", flush=True); input()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "open\n"
    found = sorted((door.kind, reach(door)) for door in doors(process.pid))
    process.communicate("\n")
    everybody, machine = ("tcp", "the network"), ("tcp", "this machine")
    own = [("unix", "its user"), *[("unix", "this machine")] * 2]
    assert found == sorted([everybody, machine, ("udp", "the network"), *own])


@pytest.mark.slow
def test_nobody_else_can_use_what_a_matrix_opens(place, homes):
    alice, _ = homes
    driver = alice.matrix(*LONG, "--set", "run.resources.processes=2", results="watched")
    try:
        until_it_trains(driver, alice, "watched")
        time.sleep(2)
        found = sorted(doors(driver.pid), key=lambda d: (d.kind, d.program, d.address))
        (token,) = {
            v for p in psutil.Process(driver.pid).children(recursive=True) if (v := p.environ().get("RAY_AUTH_TOKEN"))
        }
        rows = []
        for door in found:
            who, answer = reach(door), ""
            if door.program == "gcs_server":
                answer = ask_ray(plain(door.address), "0" * 64)
            elif door.program.startswith("ray::RuntimeEnv"):
                answer = ask_http(plain(door.address))
            rows.append((door, who, answer))
        gcs = next(plain(d.address) for d in found if d.program == "gcs_server")
        print(*rows, sep="\n")
        assert ask_ray(gcs, None) == ask_ray(gcs, "0" * 64) == "refused"
        assert ask_ray(gcs, token) == "1 nodes"  # the question is well put: with the token it is answered
        for door, who, answer in rows:
            assert who != "the network", door
            assert door.kind != "unix" or door.address.startswith("@") or who == "its user", door
            assert answer in ("", "refused"), door
        assert [answer for *_, answer in rows].count("refused") == 2
        (session,) = place.glob("nbray*")
        enter = f"print(os.access({str(session)!r}, os.R_OK | os.X_OK))"
        assert said_as(STRANGER, "import os", enter) == str(STRANGER == USER)
        assert session.stat().st_mode & 0o777 == 0o700
        for p in psutil.process_iter(["cmdline"]):
            assert not any(token in word for word in p.info["cmdline"] or []), p
        for folder in (session, alice.folder):
            assert subprocess.run(["grep", "-rqF", token, folder]).returncode == 1
        shared = [p for p in Path("/dev/shm").iterdir() if p.stat().st_uid == USER and p.stat().st_mode & 0o077]
        assert not shared
    finally:
        driver.terminate()
        code, out = ended(driver)
    assert code == 130, out
    if name := os.environ.get("NASHBOARD_DOORS"):
        write(ROOT / name, rows)


def write(page: Path, rows: list[tuple[Door, str, str]]) -> None:
    """Put the table of what was found into `page`, between its marks."""
    lines = ["| program | waits at | who gets there | what another user gets |", "| --- | --- | --- | --- |"]
    for door, who, answer in rows:
        ip, _, _ = door.address.rpartition(":")
        at = (
            f"{door.kind} {plain(ip)}"
            if door.kind != "unix"
            else f"socket {Path(door.address).name.partition('-ray-')[0]}"
        )
        line = (
            f"| {door.program} | {at} | {who} | {answer or ('a closed door' if who == 'its user' else 'not asked')} |"
        )
        lines += [] if line in lines else [line]
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}")
