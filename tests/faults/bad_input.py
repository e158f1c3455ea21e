"""Broken texts: experiment files and words of the command line, each with the command that meets it.

`bad_files` has the broken data and `bad_models` the broken models. All is made from fixed seeds, so a
case is named by what it is and is the same in every run.
"""

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

RAN = "code-ran"
"""The file that code inside an input would leave."""
TOUCH = f"touch {RAN}"


def nothing(folder: Path) -> None:
    """For a case that needs no file of its own."""


@dataclass(frozen=True)
class Case:
    """`words` for the command line, run in a folder that `files` has filled; `says` must be in the one line."""

    name: str
    words: tuple[str, ...]
    says: str
    files: Callable[[Path], object] = nothing


GOOD: dict[str, Any] = {
    "name": "tiny", "preset": "chainer", "seeds": [0], "conditional": False,
    "dataset": {"name": "synthetic", "resolution": 32, "num_images": 64},
    "backbone": {"width": 0.0625, "z_dim": 8},
    "train": {
        "total_kimg": 0.016, "batch_size": 8, "loss": "hinge", "tick_kimg": 0.016,
        "g": {"lr": 0.001, "betas": [0.5, 0.9]}
    },
    "arms": {"baseline": {}, "align": {"sel": {"hidden": 8, "branch_weight": 1.0, "levels": [4, 8, 16]}, "align": {}}},
    "labels": {"align": "+ both"},
    "eval": {"num_fakes": 64, "batch_size": 16, "metrics": {"disequilibrium": {"n": 16}}},
    "run": {"device": "cpu", "retries": 0, "resources": {"gpus": 0.0, "cpus": 1}},
}  # fmt: skip
"""An experiment that runs: what every broken one is made from."""
MATRIX = ("matrix", "bad.yaml", "--local", "--tracking-uri", "off")


def experiment(folder: Path, **over: Any) -> None:
    """Write the good experiment as tiny.yaml."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(GOOD | over))


# ── experiment files: every value wrong, every key misspelt ──────────────────

Text = str | bytes | Callable[[], str]
"""Of an experiment file; made no earlier than it is used, for most sessions only list the cases."""
NAN, INF = float("nan"), float("inf")
WRONG: dict[type, list[Any]] = {
    int: ["many", 1.5, True, [1], {"a": 1}, NAN, INF, -1, 2**64, -(2**64), "0x10"],
    float: ["much", True, [0.5], {}, NAN, INF, -INF, "1e-3", 2**70],
    bool: ["perhaps", 2, [], 0.5],
    str: [3, True, [], {}, 0.5],
    list: ["0", 3, {}, [[0]], ["a"], [NAN], [-1, -1, -1]],
    dict: [3, "text", [1], True],
}
EMPTY_IS_FINE = {"preset", "arms.baseline", "arms.align", "arms.align.sel", "arms.align.sel.levels", "arms.align.align",
                 "eval.metrics.disequilibrium"}  # fmt: skip
ANY_NAME_IS_FINE = ("arms", "labels")


def places(value: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, inner in value.items():
        yield (*above, key), inner
        if isinstance(inner, dict):
            yield from places(inner, (*above, key))


def changed(place: tuple[str, ...], value: Any, key: str | None = None) -> str:
    """The good experiment as YAML with another value at `place`, or its key renamed."""
    raw = copy.deepcopy(GOOD)
    *parents, last = place
    at = raw
    for parent in parents:
        at = at[parent]
    if key is None:
        at[last] = value
    else:
        at[key] = at.pop(last)
    return yaml.safe_dump(raw)


def mutations() -> Iterator[tuple[str, Text, str]]:
    """(name, YAML, what the message must name)"""
    for place, good in places(GOOD):
        dotted, last = ".".join(place), place[-1]
        for wrong in WRONG[type(good)] + ([] if dotted in EMPTY_IS_FINE else [None]):
            yield f"{dotted} = {wrong!r}", partial(changed, place, wrong), last
        if place[0] not in ANY_NAME_IS_FINE or len(place) > 2:
            typo = last[: len(last) // 2] + last[len(last) // 2 + 1 :]
            says = "missing" if last in ("name", "metrics") and len(place) > 1 else typo
            yield f"{dotted} as {typo}", partial(changed, place, None, typo), says


# ── experiment files: everything else ────────────────────────────────────────


def good_with(**over: Any) -> str:
    return yaml.safe_dump(GOOD | over)


def good_and(line: str, without: str = "") -> str:
    """The good experiment with a line of raw YAML, in place of the key `without`."""
    return yaml.safe_dump({k: v for k, v in GOOD.items() if k != without}) + line + "\n"


def doubled(name: str, line: Callable[[str, list[str]], str], levels: int) -> str:
    """A mapping whose every line holds the one before it nine times: 9 ** levels of the first."""
    lines, before = [], list[str]()
    for i in range(levels):
        lines.append(f"  {name}{i}: &{name}{i} {line(f'k{i}: 1', before)}\n")
        before = [f"*{name}{i}"] * 9
    return "".join(lines)


LAUGHS = doubled("x", lambda key, before: f"[{', '.join(before) or 'lol'}]", 10)
MERGES = doubled("y", lambda key, before: f"{{<<: [{', '.join(before)}], {key}}}" if before else f"{{{key}}}", 10)
DIGITS = "9" * 5000
TAGS = {
    "object/apply": f"!!python/object/apply:os.system ['{TOUCH}']",
    "object/new": f"!!python/object/new:os.system ['{TOUCH}']",
    "object": "!!python/object:harness.experiment.spec.Run {}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [0]",
    "own": "!mine [0]",
    "far": "!<tag:example.com,2000:x> [0]",
    "timestamp": "!!timestamp soon",
    "date": "2001-99-99",
    "int": "!!int x",
    "empty int": '!!int ""',
    "float": "!!float x",
    "bool": "!!bool x",
    "binary": '!!binary "="',
    "set": "!!set {a, b}",
    "omap": "!!omap [a]",
    "pairs": "!!pairs [[a]]",
    "value": "!!str [a]",
}
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "mapping"),
    "only a comment": ("# nothing\n", "mapping"),
    "a word": ("hello", "mapping"),
    "a list": ("- 1\n- 2\n", "mapping"),
    "two documents": ("a: 1\n---\nb: 2\n", "YAML"),
    "tab": ("a:\n\tb: 1\n", "YAML"),
    "open bracket": ("seeds: [0", "YAML"),
    "open quote": ('name: "x', "YAML"),
    "unknown alias": ("seeds: *x", "YAML"),
    "colon in a value": ("name: a: b", "YAML"),
    "key twice": (good_and("seeds: [1]"), "twice"),
    "nul byte": ("name: a\0b", "YAML"),
    "bell": ("name: a\x07b", "YAML"),
    "utf-16": (yaml.safe_dump(GOOD).encode("utf-16"), "UTF-8"),
    "latin-1": ("title: caf\xe9".encode("latin-1"), "UTF-8"),
    "rubbish": (random.Random(0).randbytes(3000), "YAML"),
    "100 KiB": ("# " + "x" * 100_000, "at most"),
    "many seeds": (good_with(seeds=[0] * 15_000), "bad.yaml"),
    "laughs": (good_and("labels:\n" + LAUGHS, "labels"), "unfolds"),
    "laughs by merging": (good_and("labels:\n" + MERGES, "labels"), "unfolds"),
    "a list in itself": (good_and("seeds: &s [*s]", "seeds"), "in itself"),
    "a mapping in itself": (good_and("labels: &l {a: *l}", "labels"), "in itself"),
    **{f"{n} lists deep": (good_and("seeds: " + "[" * n + "]" * n, "seeds"), "levels") for n in (60, 400, 3000,
    20_000)},
    **{f"{n} mappings deep": (good_and("run: " + "{a: " * n + "}" * n, "run"), "levels") for n in (60, 400, 3000)},
    "5000 digits": (good_and(f"seeds: [{DIGITS}]", "seeds"), "YAML"),
    "5000 hexadecimal digits": (good_and(f"seeds: [0x{'f' * 5000}]", "seeds"), "64 bits"),
    "5000 digits as a key": (good_and(f"? 0x{'f' * 5000}\n: 1"), "64 bits"),
    "number beyond floats": (good_and("title: 1.0e+400", "title"), "title"),
    "a list as a key": (good_and("? [a]\n: 1"), "YAML"),
    "a mapping as a key": (good_and("? {a: 1}\n: 1"), "YAML"),
    "null as a key": (good_and("~: 1"), "null"),
    "a number as a key": (good_and("3: 1"), "3"),
    "a line break in a key": (good_and('"a\\nb": 1'), "a b: unknown"),
    "a line break in a column": (good_with(settings={"a\nb": 3}), "settings.a b"),
    "an escape in a key": (good_and('"\\e[31mred": 1'), "unknown"),
    "a long key": (good_and(f"{'k' * 1000}: 1"), "kkk"),
    "a long value": (good_with(seeds="9" * 50_000), "seeds"),
    **{f"tag {name}": (good_and(f"seeds: {text}", "seeds"), "bad.yaml") for name, text in TAGS.items()},
}  # fmt: skip
NAMES = (
    "../out",
    "/tmp/out",
    "",
    ".",
    "..",
    ".hidden",
    "trials",
    "mlartifacts",
    "a/b",
    "a\\b",
    "x" * 300,
    "a\nb",
    "a\0b",
)
INCLUDES: dict[str, tuple[Any, str]] = {
    "itself": (["bad.yaml"], "itself"),
    "what includes it": (["loop.yaml"], "leads back"),
    "upwards": (["../tiny.yaml"], "folder of"),
    "upwards in between": (["sub/../../tiny.yaml"], "folder of"),
    "absolute": (["/etc/passwd"], "folder of"),
    "no such file": (["gone.yaml"], "no such"),
    "a folder": (["sub"], "no such"),
    "no YAML": (["broken.yaml"], "broken.yaml"),
    "two of one name": (["tiny.yaml", "sub/tiny.yaml"], "two tables"),
    "a number": (3, "include"),
    "a list of numbers": ([3], "include"),
    "changes that are no mapping": ({"tiny.yaml": 3}, "include.tiny.yaml"),
    "changes of no key": ({"tiny.yaml": {"trian": 3}}, "did you mean"),
}
RULES: dict[str, tuple[dict[str, Any], str]] = {
    "a seed twice": ({"seeds": [1, 1]}, "distinct"),
    "a seed twice as a float": ({"seeds": [1, 1.0]}, "distinct"),
    "no seed": ({"seeds": []}, "at least one"),
    "two encoders": ({"arms": {"a": {"sel": {}, "flatten": {}}}}, "more than one"),
    "align alone": ({"arms": {"a": ["align"]}}, "needs heatmaps"),
    "a variant twice": ({"arms": {"a": ["sel", "sel"]}}, "once"),
    "no such variant": ({"arms": {"a": ["sell"]}}, "did you mean"),
    "a level that is not drawn": ({"arms": {"a": {"sel": {"levels": [4, 32]}}}}, "levels"),
    "levels that descend": ({"arms": {"a": {"sel": {"heatmaps": {"levels": [8, 4]}}}}}, "ascend"),
    "a level without a site": (
        {"arms": {"a": {"sel": {"heatmaps": {"levels": [64], "counts": [1]}}}}}, "64"
    ),
    "a column that is no mapping": ({"settings": {"s": 3}}, "settings.s"),
    "a column below a number": ({"settings": {"s": {"train.total_kimg.x": 3}}}, "total_kimg"),
    "a column against itself": ({"settings": {"s": {"train": 3, "train.x": 1}}}, "train"),
    "a column of no key": ({"settings": {"s": {"trian": 1}}}, "trian"),
    "a column of an empty key": ({"settings": {"s": {"": 1}}}, "unknown"),
    "no data set": ({"dataset": {"name": "sinthetic"}}, "did you mean"),
    "a list as a data set": ({"dataset": {"name": ["synthetic"]}}, "dataset"),
    "images of 48": ({"dataset": {"name": "synthetic", "resolution": 48}}, "power of two"),
    "images of 16": ({"dataset": {"name": "synthetic", "resolution": 16}}, "resolution"),
    "more images than memory": ({"dataset": {"name": "synthetic", "num_images": 10**12}}, "num_images"),
    "no backbone": ({"preset": None, "backbone": {"name": "stylegan3"}}, "did you mean"),
    "a wide backbone": ({"backbone": {"width": 1e30}}, "width"),
    "endless layers": ({"preset": None, "backbone": {"name": "stylegan2", "mapping_layers": 10**9}}, "mapping_layers"),
    "an endless training": ({"train": {"total_kimg": 1e300}}, "total_kimg"),
    "batches that don't divide": ({"train": {"batch_size": 8, "batch_gpu": 3}}, "divide"),
    "R1 without its interval": ({"train": {"r1_gamma": 1.0}}, "r1_interval"),
    "no metric": ({"eval": {"metrics": {}}}, "metrics"),
    "no such metric": ({"eval": {"metrics": ["fidd"]}}, "did you mean"),
    "a metric twice": ({"eval": {"metrics": ["disequilibrium", "disequilibrium"]}}, "once"),
    "more scores than images": ({"eval": {"num_fakes": 64, "metrics": {"disequilibrium": {"n": 65}}}}, "more than"),
    "EMA that is not kept": ({"eval": {**GOOD["eval"], "weights": "ema"}}, "ema_kimg"),
    "a distance on the way that is none": ({"eval": {**GOOD["eval"], "during": {"kimg": 1}}}, "no distance"),
    "a distance on the way that is not scored": (
        {"eval": {**GOOD["eval"], "metrics": ["fid"], "during": {"kimg": 1, "metric": "kid"}}}, "eval.during.metric"
    ),
    "no such preset": ({"preset": "chianer"}, "did you mean"),
    "a preset elsewhere": ({"preset": "../smoke"}, "not a preset"),
    "an absolute preset": ({"preset": "/etc/passwd"}, "not a preset"),
    "no such profile": ({"profile": "both"}, "profile"),
    "more than a machine's cores": ({"run": {"resources": {"cpus": 10**9}}}, "cpus"),
}  # fmt: skip


def _included(folder: Path) -> None:
    for path in (folder, folder / "sub"):
        path.mkdir(exist_ok=True)
        experiment(path)
    (folder / "loop.yaml").write_text("include: [bad.yaml]\n")
    (folder / "broken.yaml").write_text("a: [")


def _write(text: Text, included: bool, folder: Path) -> None:
    made = text() if callable(text) else text
    (folder / "bad.yaml").write_bytes(made.encode() if isinstance(made, str) else made)
    if included:
        _included(folder)


def yamls() -> Iterator[Case]:
    texts: list[tuple[str, Text, str]] = [(name, text, says) for name, (text, says) in TEXTS.items()]
    texts += [(f"name {name[:20]!r}", partial(good_with, name=name), "name") for name in NAMES]
    texts += [(name, partial(good_with, **over), says) for name, (over, says) in RULES.items()]
    texts += [(f"include {name}", partial(good_with, include=what), says) for name, (what, says) in INCLUDES.items()]
    for name, text, says in (*texts, *mutations()):
        yield Case(f"yaml: {name}", MATRIX, says, partial(_write, text, name.startswith("include ")))
    yield Case("yaml: a folder", MATRIX, "no such", lambda folder: (folder / "bad.yaml").mkdir())
    yield Case("yaml: a dead link", MATRIX, "no such", lambda folder: (folder / "bad.yaml").symlink_to("gone"))


# ── the command line ─────────────────────────────────────────────────────────

SETS: dict[str, str] = {
    "train.total_kimg": "key=value", "": "key=value", "=3": "key=value", " =3": "unknown", "tarin.x=1": "did you mean",
    "train..x=1": "unknown", ".train=1": "unknown", "train.=1": "unknown", "train.total_kimg=": "total_kimg",
    "train.total_kimg=many": "number", "train.total_kimg=.nan": "finite", "train.total_kimg=.inf": "finite",
    "train.total_kimg=-1": "> 0", "train.total_kimg=1e3": "text in YAML", "train.total_kimg.x=3": "total_kimg",
    "train=3": "mapping", "train.g=3": "mapping", "train.g.lr=[1]": "lr", "train.g.betas=[0.5]": "2 entries",
    "seeds=3": "list", "seeds=[0": "YAML", "seeds=[0,0]": "distinct", "seeds=[-1]": ">= 0", "seeds=[.nan]": "seeds",
    f"seeds=[{DIGITS}]": "YAML", f"seeds=0x{'f' * 5000}": "64 bits", f"seeds={'[' * 4000}": "levels",
    f"seeds=!!python/object/apply:os.system ['{TOUCH}']": "YAML", "seeds=&s [*s]": "in itself", "seeds=*s": "YAML",
    "seeds={a: 1, a: 2}": "twice", "seeds=!!timestamp x": "YAML", "name=../x": "name", "name=": "name",
    "name=3": "name",
    "dataset=3": "dataset", "dataset=": "dataset", "dataset.name=sinthetic": "did you mean",
    "dataset.name=[a]": "dataset",
    "dataset.name.x=3": "dataset", "dataset.path=x.zip": "path", "dataset.resolution=48": "power of two",
    "backbone.name=stylegan3": "did you mean", "backbone.width=0": "> 0", "variants.align.tauu=1": "did you mean",
    "variants.align=3": "align", "variants=3": "variants", "conditional=perhaps": "true or false",
    "profile=both": "profile",
    "eval.metrics=[fidd]": "did you mean", "eval.metrics=3": "metrics", "eval.num_fakes=0": ">= 2",
    "eval.weights=ema": "ema",
    "eval.metrics.disequilibrium.n=65": "more than", "run=3": "run", "run.resources.cpus=0": ">= 1",
    "run.resources.gpus=-1": "gpus", "run.device=tpu": "device", "include=3": "include",
    "include=[../a.yaml]": "folder of",
    "preset=nope": "preset", "settings.x=3": "settings", "arms=3": "arms", "arms.align=3": "arms", "labels=3": "labels",
    "title=[1]": "title", "paper=3": "paper", "seed=3": "unknown",
}  # fmt: skip
URLS = {"nonsense://x": "nonsense", "s3://no-bucket": "s3://no-bucket", "file:///proc/x": "--results"}
EXPERIMENT_VERBS = ("matrix", "plan", "report", "status", "stop", "sync", "attention")
WORDS: dict[str, str] = {
    "": "VERB", "--nope": "VERB", "matrx tiny.yaml": "invalid choice", "matrix": "required", "matrix tiny.yaml x": "x",
    "matrix tiny.yaml --set": "--set", "matrix tiny.yaml --nope": "--nope", "matrix tiny.yaml --code x": "--code",
    "matrix tiny.yaml --inception-weights": "argument", "matrix tiny.yaml --results": "argument",
    **{f"{verb} gone.yaml": "no such experiment" for verb in EXPERIMENT_VERBS},
    **{f"{verb} smokee": "did you mean" for verb in EXPERIMENT_VERBS},
    **{f"{verb} .": "no such experiment" for verb in EXPERIMENT_VERBS},
    **{f"{verb} tiny.yaml --set train.total_kmig=1": "did you mean" for verb in EXPERIMENT_VERBS},
    **{f"{verb} tiny.yaml --results a-file": "a-file" for verb in ("matrix", "report", "sync", "attention", "stop")},
    **{f"{verb} tiny.yaml --results a-file/x": "a-file" for verb in ("matrix", "report", "sync", "attention", "stop")},
    **{f"{verb} tiny.yaml --results {url}": says for verb in ("matrix", "report") for url, says in URLS.items()},
    "plan tiny.yaml --gpus": "--gpus", "plan tiny.yaml --gpus x": "--gpus", "plan tiny.yaml --gpus 0": "--gpus",
    "plan tiny.yaml --gpus 8 -1": "--gpus", "stop tiny.yaml": "no driver", "attention tiny.yaml": "no finished",
    "attention tiny.yaml --images x": "--images", "attention tiny.yaml --images 1": "--images",
    "attention tiny.yaml --device tpu": "--device",
    "sync tiny.yaml --tracking-uri http://me:secret@127.0.0.1:9": "has begun",
    "sync tiny.yaml --tracking-uri nonsense://x": "has begun", "ui": "mlflow.db", "ui --port x": "--port",
    "ui --port 70000 --results with-db": "--port", "ui --port -1 --results with-db": "--port",
    "ui --results a-file": "a-file",
    "pictures": "nothing to draw", "pictures --samplers": "--out", "pictures gone": "gone", "pictures .": "no whole",
    "pictures --samplers --out a-file": "a-file", "pictures --samplers --out a-file/x": "a-file",
    "pictures a-file": "a-file",
    "eval": "required", "eval gone": "gone", "eval .": "no whole", "eval a-file": "a-file",
    "eval a-file --num-fakes x": "x",
    "eval a-file --device tpu": "--device", "import-weights": "required", "import-weights gone": "gone",
    "import-weights .": "not readable", "import-weights a-file --out a-file": "itself", "data": "required",
    "data prepare": "required", "data steal folder --source . --out o.zip": "steal",
    "data prepare folder --source .": "--out",
    "data prepare noto_emojy --source . --out o.zip": "did you mean",
    "data prepare folder --source gone --out o.zip": "gone",
    "data prepare folder --source . --out a-file": "exists",
    "data prepare folder --source with-db --out o.zip": "no images",
    "data prepare folder --source pictures --out a-file/o.zip": "a-file",
    "data prepare folder --source a-file --out o.zip": "ZIP",
    **{f"data prepare folder --source pictures --out o.zip --{option}": option.split()[0] for option in (
        "resolution 0", "resolution -1", "resolution 5000", "resolution x", "filter nope", "max-images 0", "workers 0",
        "workers x",
    )},
}  # fmt: skip


def _words(folder: Path) -> None:
    from tests.image_files import noise, png

    experiment(folder)
    (folder / "a-file").write_text("a file\n")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(png(noise(0)))
    (folder / "with-db").mkdir()
    (folder / "with-db" / "mlflow.db").touch()


def arguments() -> Iterator[Case]:
    for text, says in SETS.items():
        words = ("matrix", "tiny.yaml", "--local", "--tracking-uri", "off", "--set", text)
        yield Case(f"--set {text[:40]!r}", words, says, experiment)
    for text, says in WORDS.items():
        yield Case(f"words: {text or 'none'}", tuple(text.split()), says, _words)
