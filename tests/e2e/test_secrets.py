"""No secret of any URI that a user may give is found in what is kept or shown: results, caches, logs, Ray's own files,
MLflow's database, report.html, command lines. And the workers can use it."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import cli
from harness.store import remote

ROOT = Path(__file__).parents[2]
SECRET = "hunter2/s3cr+t"
EXPERIMENT = """
name: hidden
preset: chainer
conditional: false
seeds: [0]
dataset: {name: synthetic, resolution: 32, num_images: 64}
backbone: {width: 0.0625, z_dim: 8}
train: {total_kimg: 0.064, batch_size: 8, tick_kimg: 0.016, snapshot_kimg: 0.032}
arms: {baseline: {}}
eval: {num_fakes: 24, batch_size: 8, metrics: {disequilibrium: {n: 8}}}
run: {device: cpu, retries: 0}
"""
# A file system that wants a password, found by fsspec as every installed one is: by an entry point.
VAULT = """
import hashlib, os
from fsspec.implementations.local import LocalFileSystem

class Vault(LocalFileSystem):
    protocol = "vault"

    def __init__(self, secret="", **more):
        if hashlib.sha256(secret.encode()).hexdigest() != DIGEST:
            raise PermissionError("vault: wrong password")
        super().__init__(auto_mkdir=True, **more)

    @classmethod
    def _strip_protocol(cls, path):
        if isinstance(path, str) and path.startswith("vault:"):
            path = FOLDER + "/" + path.rpartition("@")[2].removeprefix("host").strip("/")
        return LocalFileSystem._strip_protocol(path)

    @staticmethod
    def _get_kwargs_from_urls(url):
        return {"secret": url.rpartition("@")[0].split(":", 2)[2]}
"""


@pytest.fixture
def home():
    """A folder with the experiment and the vault: short, for Ray's sockets are below it."""
    with tempfile.TemporaryDirectory(prefix="nb", dir="/tmp") as name:
        folder = Path(name)
        (folder / "hidden.yaml").write_text(EXPERIMENT)
        plugin = folder / "plugin"
        (plugin / "vault-1.0.dist-info").mkdir(parents=True)
        (plugin / "vault-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: vault\nVersion: 1.0\n")
        (plugin / "vault-1.0.dist-info/entry_points.txt").write_text("[fsspec.specs]\nvault = vault.Vault\n")
        digest = subprocess.run(
            ["sha256sum"], input=SECRET.encode(), capture_output=True, check=True
        ).stdout.split()[0].decode()  # fmt: skip
        text = textwrap.dedent(VAULT).replace("DIGEST", repr(digest)).replace("FOLDER", repr(str(folder / "vault")))
        (plugin / "vault.py").write_text(text)
        yield folder


def environment(home):
    """Every variable in which there may be a URI, or a secret."""
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300", "TMPDIR": str(home), "RAY_TMPDIR": str(home),
        "NASHBOARD_CACHE": str(home / "cache"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(home / "plugin")]),
        "HTTP_PROXY": uri, "HTTPS_PROXY": uri, "NO_PROXY": "127.0.0.1,localhost", "AWS_SECRET_ACCESS_KEY": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET, "NASHBOARD_INCEPTION_WEIGHTS": f"ftp://me:{SECRET}@host/inception.pth",
    }  # fmt: skip


def leaks(home):
    """Files and folders below `home` that hold the secret, or are named by it."""
    found = []
    for path in home.rglob("*"):
        held = path.read_bytes() if path.is_file() else b""
        if SECRET.encode() in held or SECRET in str(path) or SECRET.encode()[:7] in os.fsencode(path.name):
            found.append(str(path))
    return found


def commands(home):
    """Of all that was started there and still runs."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.fixture
def mlflow(home):
    """A tracking server, whose database and log lie below `home`."""
    from harness.tracking.server import serve
    from harness.tracking.sqlite import create, default_uri

    folder = home / "tracking"
    create(folder / "mlflow.db", folder / "mlartifacts")
    assert default_uri(folder)
    with serve(folder, 0) as base:
        yield base


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ray", "--local"])
def test_no_secret_is_found_in_anything_that_a_matrix_leaves_or_shows(home, mlflow, launcher):
    words = [
        "matrix", "hidden.yaml", f"--results=vault://me:{SECRET}@host/runs",
        "--tracking-uri", mlflow.replace("//", f"//me:{SECRET}@"), *(["--local"] if launcher == "--local" else []),
    ]  # fmt: skip
    said = home / "said"
    with said.open("w") as out:
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *words], cwd=home, env=environment(home), stdout=out, stderr=out
        )
    while_training: list[str] = []
    while driver.poll() is None:
        lines = commands(home)
        if any(line.startswith("ray::") for line in lines):
            while_training = lines
        time.sleep(0.1)
    assert driver.returncode == 0, said.read_text()
    (result,) = home.glob("vault/runs/trials/*/result.json")  # the workers knew the password
    shown = json.loads(result.read_text())["env"]["argv"]
    assert shown[:3] == ["cli.py", "matrix", "hidden.yaml"] and shown[3] == "--results=vault://***@host/runs"
    assert (
        shown[5] == mlflow.replace("//", "//***@")
        and json.loads((result.parent / "env.json").read_text())["argv"] == shown
    )
    assert (home / "tracking/mlflow.db").stat().st_size and list(home.glob("cache/results/*/url"))
    assert list(home.glob("vault/runs/hidden/report.html"))
    assert leaks(home) == []
    if launcher == "ray":
        assert list(home.rglob("nbray*/r/session_*/logs/*")) and len(while_training) > 2
        assert [line for line in while_training if SECRET in line] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--results", f"vaults://me:{SECRET}@host/runs"],  # of no known kind
        ["--tracking-uri", f"nosuch://me:{SECRET}@host/db"],
        ["--set", f"dataset={{name: image_zip, path: 'ftp://me:{SECRET}@host/x.zip'}}"],
        ["--set", f"dataset={{name: cifar10, path: 's3://me:{SECRET}@host/x.tar.gz'}}"],
        ["--set", f"dataset.path=https://host/x.zip?sig={SECRET}"],
        [f"--nosuch=ftp://me:{SECRET}@host"],
        ["--set", f"plugins=['ftp://me:{SECRET}@host/x']"],
        ["--ray-address", f"ray://me:{SECRET}@host:10001"],
        ["--ray-address", f"me:{SECRET}@host:1"],
        ["--inception-weights", f"s3://me:{SECRET}@bucket/inception.pth", "--set", "eval.metrics=[fid]"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_what_is_refused_is_refused_without_its_secret(home, words, capsys, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(home / "cache"))
    monkeypatch.setattr(remote, "_url", None)
    monkeypatch.chdir(home)
    where = [] if "--results" in words else ["--results", "results"]
    local = [] if "--ray-address" in words else ["--local"]
    track = [] if "--tracking-uri" in words else ["--tracking-uri", "off"]
    monkeypatch.setenv("NASHBOARD_INCEPTION_WEIGHTS", "")
    try:
        code: object = cli.main(["matrix", "hidden.yaml", *words, *where, *local, *track])
    except SystemExit as e:  # argparse's
        code = e.code
    said = "".join(capsys.readouterr())
    assert code == (0 if "--tracking-uri" in words else 2), said
    assert SECRET not in said and "hunter2" not in said, said
    assert leaks(home) == []
