"""Made-up finished trials, to test what is drawn from results. No figure here was ever measured."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from harness.experiment.parse import to_plain
from harness.experiment.spec import Adam, Eval, Experiment, Plugin, Run, Table, Train, Trial

MADE_UP = {"note": "made up by tests/fake_results.py"}
FULL = {"num_fakes": 50_000, "num_reals": 50_000, "extractor": "made-up"}
KIMG = 400


@dataclass(frozen=True)
class Options:
    """Options of plugins that exist only here; `kind` tells their trials apart."""

    kind: str = "made-up"


def plugin(name, kind="made-up"):
    return Plugin(name, Options(kind))


def trial(dataset="cifar10", variants=(), seed=0, conditional=False, fakes=50_000, kimg=KIMG, backbone="sn_dcgan"):
    return Trial(
        dataset=plugin(dataset),
        backbone=plugin(backbone),
        conditional=conditional,
        variants=tuple(plugin(*v) if isinstance(v, tuple) else plugin(v) for v in variants),
        train=Train(total_kimg=kimg, batch_size=64, g=Adam(), d=Adam()),
        eval=Eval(metrics=(plugin("fid"), plugin("disequilibrium")), num_fakes=fakes),
        seed=seed,
    )


def table(name="table2", paper="table2", seeds=(0, 1, 2), settings=None, arms=None, labels=None, title=None, **kwargs):
    settings = settings or {"cifar10_unconditional": {}, "cifar10_conditional": {"conditional": True}}
    arms = arms or {"baseline": (), "sel": ("sel",), "align": ("sel", "align")}
    labels = labels or {"sel": "+ SEL", "align": "+ L_align", "baseline": "Baseline"}
    cells = {
        (s, a): tuple(trial(variants=variants, seed=seed, **{**kwargs, **changes}) for seed in seeds)
        for s, changes in settings.items()
        for a, variants in arms.items()
    }
    return Table(name, title or name, paper, labels, tuple(arms), tuple(settings), cells)


def experiment(*tables, name="made_up"):
    return Experiment(name, Path(f"{name}.yaml"), tables or (table(),), Run())


def score(value, better="lower", se=None, **protocol):
    return {"value": value, "se": se, "better": better, "protocol": {**FULL, **protocol}, "extra": {}}


def finish(results, t, metrics, *, status="done", series=None, samples=(), reason=None, commit="0123abcd4567", **extra):
    """Write the result.json of a trial with these metrics {name: value or score(...)}."""
    metrics = {k: v if isinstance(v, dict) else score(v) for k, v in metrics.items()}
    record = {
        "schema": 1, "id": t.id, "status": status, "reason": reason, "nimg": int(t.train.total_kimg * 1000),
        "config": to_plain(t),
        "env": {"commit": commit, "device": "cpu", "python": "3.11", "versions": {"torch": "2.15.0"}, **MADE_UP},
        "dataset": {"fingerprint": "feedc0de", "name": t.dataset.name}, "metrics": metrics,
        "cost": {"params_g": 3_300_000, "params_d": 4_600_000, "train_s": 300.0, "images_per_s": 1300.0,
                 "peak_memory_mib": 900.0},
        "series": series or {}, "samples": list(samples), **extra,
    }  # fmt: skip
    write(results, t, "result.json", record)


def live(results, t, state, **more):
    """Write the state.json of a trial that has no result."""
    now = {
        "state": state,
        "nimg": 130_000,
        "total_nimg": 400_000,
        "images_per_s": 1200.0,
        "message": None,
        "latest": {},
    }
    write(results, t, "state.json", {**now, **more})


def write(results, t, name, record):
    folder = results / "trials" / t.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(record))


# ── a whole matrix that looks real ───────────────────────────────────────────

GAINS = {"baseline": 0.0, "sel": 0.35, "align": 1.0, "gaussian_noise": 0.05, "non_hierarchical": 0.7}
GAINS |= {"hierarchical": 1.0, "flatten": -0.15, "sel_concat": 0.9, "sel_norm": 1.0}


def matrix(*, seeds=(0, 1, 2), kimg=KIMG, fakes=50_000):
    """An experiment of the paper's shape: Tables 1 and 3 share trials, Table 2 has its own."""
    big = {"backbone": "stylegan2", "kimg": kimg, "fakes": fakes}
    labels = {"lsun_cat": "LSUN Cat", "ffhq": "FFHQ", "baseline": "Baseline", "sel": "+ SEL", "align": "+ L_align"}
    labels |= {"cifar10_unconditional": "Unconditional", "cifar10_conditional": "Conditional", "hierarchical": "Hie"}
    labels |= {"gaussian_noise": "Gau. noise", "non_hierarchical": "Non-Hie"}
    data = {"lsun_cat": {"dataset": "lsun_cat"}, "ffhq": {"dataset": "ffhq"}}
    samplers = {"baseline": (), "gaussian_noise": (("sel", "noise"), "align"),
                "non_hierarchical": (("sel", "flat"), "align"), "hierarchical": ("sel", "align")}  # fmt: skip
    return experiment(
        table("table1", "table1", seeds, data, None, labels, "StyleGAN2, three arms (Table 1)", **big),
        table("table2", "table2", seeds, None, None, labels, "SN-DCGAN on CIFAR-10 (Table 2)", kimg=kimg, fakes=fakes),
        table("table3", "table3", seeds, {"lsun_cat": data["lsun_cat"]}, samplers, labels,
              "Heatmap sampling (Table 3)", **big),
        name="made_up_matrix",
    )  # fmt: skip


def fill(results, exp, *, skip=lambda place, t: False, images=True):
    """Finish every trial of `exp` but those that `skip`; values depend on setting, arm and seed alone."""
    done = set()
    for t in exp.tables:
        for (setting, arm), trials in t.cells.items():
            for one in trials:
                if one.id not in done and not skip((t.name, setting, arm), one):
                    _finish_one(results, one, setting, arm, images)
                done.add(one.id)


def _finish_one(results, t, setting, arm, images):
    rng = np.random.default_rng([t.seed, *setting.encode(), *arm.encode()])
    level = np.random.default_rng([t.seed, *setting.encode()]).normal()  # what the arms of a seed share
    gain = GAINS[arm]
    base_fid, base_di = (23.7, 1.85) if "cifar" in setting else (8.4, 3.6)
    fid = base_fid * (1 - 0.22 * gain) + 0.5 * level + rng.normal(0, 0.15)
    di = base_di - 1.0 * gain + 0.15 * level + rng.normal(0, 0.12)
    steps = np.linspace(0, t.train.total_kimg * 1000, 101)[1:].astype(int)
    rise = 1 - np.exp(-4 * steps / steps[-1])

    def curve(values, noise):
        return [
            [int(n), round(float(v), 4)] for n, v in zip(steps, values + rng.normal(0, noise, len(steps)), strict=True)
        ]

    real = 0.3 + (0.5 * base_di - 0.35 * gain) * rise
    fake = -0.2 - (0.5 * base_di - 0.65 * gain) * rise
    series = {
        "loss/g": curve(0.8 + 1.6 * rise * (1 - 0.2 * gain), 0.08),
        "loss/d": curve(1.35 - 0.7 * rise * (1 - 0.2 * gain), 0.05),
        "scores/real_min": curve(real, 0.15), "scores/fake_max": curve(fake, 0.15),
        "eval/di": [[int(n), round(float(v), 4)] for n, v in
                    zip(steps[9::10], di * rise[9::10] + rng.normal(0, 0.35, 10), strict=True)],
    }  # fmt: skip
    if arm not in ("baseline", "sel"):
        series["loss/align"] = curve(0.9 - 0.5 * rise, 0.02)
    samples = []
    if images and t.seed == 0:
        for nimg in steps[19::20]:
            path = f"samples/{nimg:09d}.png"
            _draw(results / "trials" / t.id / path, t.seed, nimg / steps[-1], gain)
            samples.append(path)
    draws = {"n": 64, "repeats": 200}
    metrics = {
        "fid50k_full": score(fid),
        "di": score(di, se=0.03, **draws),
        "di_calibrated": score(di + 4.7, "zero", 0.05, **draws),
        "kid50k_full": score(fid / 1500, se=0.0002),
        "score_auc": score(0.5 + 0.4 * math.exp(-gain) + rng.normal(0, 0.01)),
        "precision50k_full": score(0.6 + 0.1 * gain + rng.normal(0, 0.01), "higher"),
    }
    finish(results, t, metrics, series=series, samples=samples)


def _draw(path, seed, progress, gain):
    """A grid of blurred discs: plain shapes that sharpen with training."""
    rng = np.random.default_rng(seed)
    size, cells = 16, 8
    yy, xx = np.mgrid[0:size, 0:size] / size
    sheet = np.zeros((size * cells, size * cells, 3))
    for i in range(cells):
        for j in range(cells):
            (cy, cx), radius, ink, ground = (
                rng.uniform(0.3, 0.7, 2),
                rng.uniform(0.15, 0.3),
                rng.random(3),
                rng.random(3),
            )
            edge = 0.3 - 0.27 * progress * (0.7 + 0.3 * gain)
            mask = 1 / (1 + np.exp((np.hypot(yy - cy, xx - cx) - radius) / (edge / 4)))
            sheet[i * size : (i + 1) * size, j * size : (j + 1) * size] = mask[..., None] * (ink - ground) + ground
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).astype(np.uint8)).save(path)
