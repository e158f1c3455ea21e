"""The processes of one trial as the pool starts them, without Ray: what each is called with is all that it runs."""

import multiprocessing as mp
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.parse import to_plain
from harness.experiment.schema import plain
from harness.experiment.spec import Resources, Run
from harness.orchestration import attempt, pool
from harness.orchestration.launch import WORKER
from harness.store import checkpoint
from harness.store.folder import results
from tests import tiny

pytestmark = pytest.mark.slow
CONTEXT = mp.get_context("spawn")


def lead(pipe: Any, call: tuple[Any, ...]) -> None:
    pool.node_ip = lambda: "127.0.0.1"
    worker = pool._Worker(1, 0)
    met = worker.meet(worker.ip(), worker.ip())
    pipe.send(met)
    pipe.send(tuple(worker.run("ticket", *call, met=met)))


def follow(pipe: Any, met: Any, call: tuple[Any, ...]) -> None:
    pool.node_ip = lambda: "127.0.0.1"
    pipe.send(tuple(pool._Worker(1, 0).follow(met, 1, 2, *call)))


def test_a_team_of_two_trains_a_trial_and_leaves_what_one_leaves(tmp_path: Path) -> None:
    trial = tiny.trial("sn_dcgan", "align", train={"batch_gpu": 4, "total_kimg": 0.032})
    found = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        run = plain(Run(resources=Resources(processes=world), device="cpu"))
        call = (WORKER, to_plain(trial), folder, run, attempt.begin(folder))
        if world == 1:
            assert attempt.make(*call[:-1], attempt.Control(), call[-1]).word == "done"
        else:
            (a, of_a), (b, of_b) = CONTEXT.Pipe(), CONTEXT.Pipe()
            leader = CONTEXT.Process(target=lead, args=(of_a, call))
            leader.start()
            met = a.recv()
            assert met.ip == "127.0.0.1"
            follower = CONTEXT.Process(target=follow, args=(of_b, met, call))
            follower.start()
            assert (a.recv()[0], b.recv()[0]) == ("done", "done")
            leader.join()
            follower.join()
        saved = checkpoint.load_latest(folder / "checkpoints")
        assert saved is not None
        found.append({k: v.tolist() for k, v in saved.tensors.items() if not k.startswith("places/")})
        assert [r["world"] for r in results(folder)] == [[world]]
    assert found[0] == found[1]


def test_a_rank_whose_node_has_other_images_fails_and_says_so(tmp_path: Path) -> None:
    """Its numbers would be of two data sets."""
    trial = tiny.trial("sn_dcgan", train={"batch_gpu": 4})
    raw = {**to_plain(trial), "data": "0123456789abcdef"}
    run = plain(Run(resources=Resources(processes=2), device="cpu"))
    (a, of_a), folder = CONTEXT.Pipe(), tmp_path / "trial"
    number = attempt.begin(folder)
    leader = CONTEXT.Process(target=lead, args=(of_a, (WORKER, to_plain(trial), folder, run, number)))
    leader.start()
    met = a.recv()
    b, of_b = CONTEXT.Pipe()
    follower = CONTEXT.Process(target=follow, args=(of_b, met, (WORKER, raw, folder, run, number)))
    follower.start()
    for word, message, *_ in (b.recv(), a.recv()):
        assert word == "failed" and "other images here" in message
    leader.join()
    follower.join()
