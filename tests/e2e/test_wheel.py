"""The project as pip installs it: a wheel from this checkout, run from an empty folder with a backbone of one's own.

What it depends on is taken from the environment that runs the tests, through a .pth file: only the project is new.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
PLUGIN = ROOT / "tests" / "outside" / "backbones" / "plain_dcgan.py"
SHORT = ["train.total_kimg=0.1", "train.snapshot_kimg=0.1", "dataset.num_images=128", "seeds=[0]"]
SHORT += ["eval.num_fakes=64", "eval.num_reals=64"]
OWN = """
preset: chainer
plugins: [mine]
dataset: {name: synthetic, num_images: 64}
backbone: {name: plain_dcgan, width: 8, z_dim: 16}
train: {total_kimg: 0.064, batch_size: 8}
eval: {num_fakes: 64, batch_size: 16, metrics: [disequilibrium]}
"""


def call(*words, cwd, **more):
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=500, **more)
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what is committed or would be: a copy, since setuptools leaves build/ behind."""
    home = tmp_path_factory.mktemp("wheel")
    listed = call("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (home / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "../dist", cwd=home / "source")
    (made,) = (home / "dist").glob("nashboard-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of commands of an environment that holds the wheel; of this checkout it sees nothing."""
    home = tmp_path_factory.mktemp("environment") / "env"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "--python", home / "bin" / "python", "install", "--no-deps", "--no-index", wheel, cwd=home)
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files in there do not count
    return home / "bin"


@pytest.fixture
def nashboard(installed, tmp_path):
    """The command, run in an empty folder."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NASHBOARD_CACHE": str(tmp_path.parent / "cache")}

    def run(*words):
        return call(installed / "nashboard", *words, cwd=tmp_path, env=env)

    where = call(installed / "python", "-c", "import harness; print(harness.__path__[0])", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(installed.parent)
    return run


@pytest.fixture
def own_backbone(tmp_path):
    (tmp_path / "mine" / "backbones").mkdir(parents=True)
    shutil.copy(PLUGIN, tmp_path / "mine" / "backbones")


def sets(*texts):
    return [word for text in texts for word in ("--set", text)]


def test_the_wheel_holds_all_that_is_tracked_of_the_packages(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = call(
        "git", "ls-files", "-co", "--exclude-standard", "harness", "backbones", "experiments", "cli.py", cwd=ROOT
    )
    expected = {name for name in tracked.splitlines() if (ROOT / name).is_file()}
    assert {name for name in expected if Path(name).suffix == ".yaml"} and expected <= inside
    assert not [name for name in inside if name.startswith(("tests", "bench", "docs"))]


def test_a_shipped_experiment_takes_plugins_of_the_working_folder(nashboard, own_backbone):
    assert "plain_dcgan" in nashboard(
        "plan", "smoke", *sets("plugins=[mine]", "backbone={name: plain_dcgan, width: 8}")
    )


def test_plan_knows_speeds(nashboard):
    said = nashboard("plan", "smoke")
    assert "6 unique trials" in said
    assert "trials measured: " in nashboard("plan", "rehearsal"), "by the speeds that are shipped"


@pytest.mark.parametrize("how", [["--local"], []], ids=["local", "ray"])
def test_smoke_runs(nashboard, tmp_path, how):
    said = nashboard("matrix", "smoke", *how, *sets(*SHORT))
    assert "+ L_align" in said and "report.html" in said
    results = [json.loads(p.read_text()) for p in tmp_path.glob("results/trials/*/result.json")]
    assert [r["status"] for r in results] == ["done"] * 3
    assert results[0]["env"]["commit"].startswith("v")
    assert (tmp_path / "results" / "mlflow.db").exists()


@pytest.mark.parametrize("how", [["--local"], []], ids=["local", "ray"])
def test_a_backbone_of_ones_own_runs(nashboard, own_backbone, tmp_path, how):
    (tmp_path / "own.yaml").write_text(OWN)
    nashboard("matrix", "own.yaml", "--tracking-uri", "off", *how)
    (result,) = [json.loads(p.read_text()) for p in tmp_path.glob("results/trials/*/result.json")]
    assert (result["status"], result["config"]["backbone"]["name"]) == ("done", "plain_dcgan")
    assert set(result["env"]["plugins"]) == {"backbones/plain_dcgan.py"}
