"""What a Ray of our own is given before it starts: no file for others to read, nothing that others can reach."""

import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import psutil
import pytest

from harness.orchestration import cluster

AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in (*AUTH, "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_token_of_the_process_is_given_in_the_environment_and_taken_back(tmp_path):
    with cluster._environment(cluster._of_our_own()):
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert not {*AUTH, cluster.MARK, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & os.environ.keys()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given", [{"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/mine"}, {"RAY_AUTH_MODE": "disabled"}]
)
def test_what_the_user_says_about_tokens_stands(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with cluster._environment(cluster._of_our_own()):
        assert {name: os.environ[name] for name in given} == given
        assert ("RAY_AUTH_TOKEN" in os.environ) == ("RAY_AUTH_TOKEN" in given)


def test_variables_that_were_there_are_put_back(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with cluster._environment(cluster._of_our_own()):
        assert os.environ["PYTHONPATH"].endswith(f"{os.pathsep}/somewhere")
    assert os.environ["PYTHONPATH"] == "/somewhere"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o600])
def test_a_token_that_ray_keeps_in_the_home_folder_is_shut(tmp_path, mode):
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(mode)
    cluster._shut_token_file()
    assert path.stat().st_mode & 0o777 == 0o600 and path.read_text() == "secret"


def test_what_ray_starts_is_of_another_group_than_the_driver(monkeypatch):
    services = types.SimpleNamespace(ConsolePopen=subprocess.Popen)
    for name, module in (("ray", None), ("ray._private", types.SimpleNamespace(services=services))):
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType("ray"))
    with cluster._deaf(), services.ConsolePopen(["sleep", "60"], preexec_fn=lambda: None) as child:
        assert os.getpgid(child.pid) == child.pid != os.getpgrp()
        child.kill()
    assert services.ConsolePopen is subprocess.Popen


@pytest.fixture
def made():
    """What is made outside of the test's folder, removed."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        folder.parent.rmdir()


@pytest.mark.parametrize("long", ["RAY_TMPDIR", "TMPDIR", "both"])
def test_sockets_find_a_short_folder_that_is_ours_alone(tmp_path, monkeypatch, made, long):
    """Bug 21: a folder too long for a socket's path is passed over."""
    deep = tmp_path / ("scratch_area_of_the_cluster" * 3)
    deep.mkdir()
    short = Path(tempfile.mkdtemp(prefix="nb", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(short if long == "RAY_TMPDIR" else deep))
    if long != "TMPDIR":
        monkeypatch.setenv("RAY_TMPDIR", str(deep))
    made.append(folder := Path(cluster._session_folder()))
    base = folder.parents[1]
    assert base == (short if long == "RAY_TMPDIR" else Path("/tmp"))
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    socket = f"{folder}/session_2026-11-25_14-26-01_289567_1234567/sockets/plasma_store"
    assert len(os.fsencode(socket)) <= 107
    if base != short:
        short.rmdir()
    else:
        made.append(short / "x")


def test_a_folder_of_a_driver_that_is_gone_is_swept_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid != 99)
    elsewhere = tmp_path / "elsewhere"
    for name in ("nbray99-abc/r/session", "nbray98-abc/r", "nbrayx-abc", "nb99-abc", "elsewhere/precious"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "nbray99-link").symlink_to(elsewhere)
    cluster._sweep()
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"nbray98-abc", "nbrayx-abc", "nb99-abc", "nbray99-link", "elsewhere"}
    assert (elsewhere / "precious").exists()
