"""nashboard: is the GAN closer to equilibrium, and are its images closer to the data?

Each verb imports what it needs, so that --help answers at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.verbs import Verbs, option

if TYPE_CHECKING:
    from harness.orchestration.recognise import Found
    from harness.report.model import Report

VERBS = Verbs(
    "nashboard",
    "Train GANs with and without spatial awareness, score FID and DI, and compare.",
    option("--results", default="results", help="folder of results, or its URL (default: results)"),
)
verb, parser = VERBS.enter, VERBS.parser

EXPERIMENT = (
    option("experiment", help="an experiment file, or the name of a shipped one (smoke, table2, ...)"),
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="override any key; may be repeated"),
)
DEVICE = option("--device", default="auto", choices=("auto", "cpu", "cuda"))
INCEPTION = option("--inception-weights", type=Path, metavar="FILE", help="Inception weights for FID")
OTHER_CODE = "other_code"  # where options say what becomes of trials that other code made: one of them


# ── verbs ────────────────────────────────────────────────────────────────────


@verb(
    "train and score every trial of an experiment, then print its tables",
    *EXPERIMENT,
    option("--local", action="store_true", help="one trial after another in this process, without Ray"),
    option("--ray-address", metavar="HOST:PORT", help="use an existing Ray cluster"),
    option("--code", choices=("ship", "shared"), default="ship", help="with --ray-address: ship code, or not"),
    option("--tracking-uri", metavar="URI", help="MLflow server (default: a SQLite file in results); off: none"),
    option("--retry-failed", action="store_true", help="try again what failed before"),
    option(
        "--retrain", dest=OTHER_CODE, action="store_const", const="retrain", default="ask",
        help="train trials again that other code trained; their old folders are kept in results/superseded",
    ),
    option(
        "--accept-code", dest=OTHER_CODE, action="store_const", const="accept", default="ask",
        help="take trials that other code trained or scored as they are",
    ),
    option("--rescore", action="store_true", help="score finished trials again, from their checkpoints"),
    option("--accept-old", action="store_true", help="take results of an older EPOCH or unknown images as they are"),
    INCEPTION,
    examples=(
        "smoke --local  # some minutes on two cores",
        "mine.yaml --set train.total_kimg=500 --ray-address head:6379",
    ),
)  # fmt: skip
def matrix(args: argparse.Namespace) -> int:
    """Preflight, run what is unfinished, report; 0 when every trial is done."""
    from harness import console, process
    from harness.experiment import files
    from harness.orchestration import cluster, finished
    from harness.store import remote

    _use_inception_weights(args)
    words = [str(args.results), str(args.tracking_uri), *args.set]
    key = finished.key(args.experiment, words, files.plugin_folders(args.experiment, args.set))
    plain = args.other_code == "ask" and not args.rescore and not args.accept_old and remote.url() is None
    if plain and (noted := finished.recall(args.results, key)):
        _say(*noted["said"])
        return 0
    if args.ray_address and not args.local:
        cluster.reach(args.ray_address)  # before torch is loaded and anything is read
    with process.loading():
        from harness.orchestration import matrix, recognise

    experiment = files.load(args.experiment, args.set)
    data = finished.stamps(recognise.paths(experiment))  # before anybody looks: what changes meanwhile is not noted
    made = matrix.run(
        experiment, args.results, launcher="inline" if args.local else "ray",
        address=args.ray_address, ship_code=args.code == "ship", tracking_uri=args.tracking_uri,
        retry_failed=args.retry_failed, other_code=args.other_code, rescore=args.rescore, accept_old=args.accept_old,
        say=_say, display=console.Progress,
    )  # fmt: skip
    matrix.remember(made, args.results, key, _shown(made.report, made.written), data)
    return made.exit_code


@verb(
    "print the unique trials, what they cost and when they would end; run nothing",
    *EXPERIMENT,
    option("--gpus", type=int, nargs="+", default=[1, 8, 64], help="sizes of cluster to plan for (default: 1 8 64)"),
    examples=("smoke", "table2 --gpus 4 16 --set 'seeds=[0, 1, 2]'"),
)
def plan(args: argparse.Namespace) -> int:
    """Print the unique trials in launch order, which cells each serves, what they cost and when they would end."""
    _begin(args)
    from harness.errors import UserError
    from harness.orchestration import plan as plans
    from harness.process import cores

    if min(args.gpus) < 1:
        raise UserError(f"--gpus {min(args.gpus)}: must be 1 or more")
    found = _recognised(args, recall=False)
    experiment, noted = plans.check(found.experiment, args.results)
    _say(*noted)
    _say(plans.table(experiment, args.results, found.absent, args.gpus, cores()))
    return 0


@verb(
    "write tables, results.csv and report.html from what is finished",
    *EXPERIMENT,
    examples=("smoke", "table2 --results s3://bucket/runs"),
)
def report(args: argparse.Namespace) -> int:
    """Write and print the tables as far as they are known."""
    from harness.orchestration import matrix

    _shown(*matrix.report(_recognised(args).experiment, args.results))
    return 0


@verb(
    "show the progress of an experiment's trials",
    *EXPERIMENT,
    examples=("smoke", "table2 --results /shared/results"),
)
def status(args: argparse.Namespace) -> int:
    """One line per trial, read from the results folder: works beside a running matrix."""
    _begin(args)
    from harness.orchestration import status as states

    _say(states.table(_recognised(args).experiment, args.results))
    return 0


@verb(
    "ask the running matrix to save and stop, as Ctrl-C does",
    *EXPERIMENT,
    examples=("smoke", "table2 --results /shared/results"),
)
def stop(args: argparse.Namespace) -> int:
    """Do what Ctrl-C does to the driver that runs the experiment."""
    from harness.experiment import files
    from harness.store import lease

    who = lease.request_stop(args.results / files.load(args.experiment, args.set).name)
    _say(f"asked {who} to save and stop")
    return 0


@verb(
    "send everything in results to MLflow, also after its database was lost",
    *EXPERIMENT,
    option("--tracking-uri", metavar="URI", help="MLflow server (default: a SQLite file in results)"),
    examples=("smoke", "table2 --tracking-uri http://mlflow:5000"),
)
def sync(args: argparse.Namespace) -> int:
    """Send what results hold to MLflow."""
    from harness.orchestration import matrix

    uri = matrix.sync(_recognised(args).experiment, args.results, args.tracking_uri)
    _say(f"MLflow is up to date: {uri}")
    return 0


@verb(
    "score a checkpoint, or a trial's folder",
    option("model", type=Path, help="a trial's folder, or one .safetensors checkpoint"),
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="override the recorded trial"),
    option("--metrics", help="names, separated by commas (default: those of the trial)"),
    option("--num-fakes", type=int, help="images to generate (default: as the trial)"),
    DEVICE,
    option("--workers", type=int, default=1, metavar="N", help="processes that share the fakes, a GPU each"),
    INCEPTION,
    option("--out", type=Path, help="also write the records as JSON"),
    examples=(
        "results/trials/3f9c1e07ab42 --metrics fid,kid --num-fakes 10000",
        "network.safetensors --set dataset.path=photos.zip --out scores.json",
    ),
)
def eval(args: argparse.Namespace) -> int:  # noqa: A001 - the verb's name
    """Score one trained model in one pass and print every record."""
    from harness import console, process
    from harness.training import trained
    from harness.trial import standalone

    _use_inception_weights(args)
    process.use_own_cores()
    fakes = [] if args.num_fakes is None else [f"eval.num_fakes={args.num_fakes}"]
    metrics = args.metrics.split(",") if args.metrics else ()
    model = trained.load(args.model, _device(args), [*args.set, *fakes], metrics)
    with console.counting("images") as progress:
        records = standalone.score(model, args.out, workers=args.workers, progress=progress)
    _say(standalone.grid(model, str(args.model), records))
    return 0


@verb(
    "measure where D looks and what heatmaps move, for an experiment's finished trials",
    *EXPERIMENT,
    option("--images", type=int, default=1024, help="images per measure (default: 1024)"),
    option("--readings", choices=["all"], help="every reading of L_align beside the others, on each trial"),
    DEVICE,
    examples=("attention", "align_defaults --images 256 --readings all"),
)
def attention(args: argparse.Namespace) -> int:
    """Probe every finished trial, print one table, and write it with its figures."""
    from harness import process
    from harness.study import report as attention_report

    process.use_own_cores()
    made = attention_report.make(
        _recognised(args).experiment, args.results.absolute(), count=args.images, say=_say,
        device=_device(args), every_reading=args.readings is not None,
    )  # fmt: skip
    _say(*filter(None, (attention_report.grid(made), attention_report.readings_grid(made))))
    _say(f"attention: {made.folder / 'attention.md'} with {len(made.figures)} figures")
    return 0


@verb(
    "turn a published StyleGAN2 or EqGAN-SA pickle into a checkpoint",
    option("pickle", type=Path, help="network.pkl with G, D and G_ema; nothing in it is executed"),
    option("--out", type=Path, help="a .safetensors file, or a folder (default: beside the pickle)"),
    examples=("network.pkl", "network.pkl --out imported/cat.safetensors"),
)
def import_weights(args: argparse.Namespace) -> int:
    """Turn a network pickle into a checkpoint, and say what it holds and what was left behind."""
    from harness.weights import importer as weights

    made = weights.import_weights(args.pickle, args.out or args.pickle.parent / f"{args.pickle.stem}.safetensors")
    _say(*weights.told(made, args.pickle))
    return 0


@verb(
    "serve MLflow over results on this machine",
    option("experiment", nargs="?", help="open this experiment's view"),
    option("--port", type=int, default=5000),
    option("--no-browser", action="store_true", help="print the link only"),
    examples=("", "smoke --port 5001 --no-browser"),
)
def ui(args: argparse.Namespace) -> int:
    """Serve MLflow on loopback until Ctrl-C."""
    from harness.tracking import server as mlflow_server

    mlflow_server.ui(args.results, args.experiment, args.port, browse=not args.no_browser, say=_say)
    return 0


@verb(
    "draw a trained model's samples, attention and heatmap edits, or the samplers",
    option("trial", nargs="?", type=Path, metavar="TRIAL_FOLDER", help="a folder under results/trials"),
    option("--samplers", action="store_true", help="draw heatmaps of every sampler; needs no trial"),
    option("--out", type=Path, metavar="DIR", help="where to (default: pictures/ in the trial's folder)"),
    examples=("results/trials/3f9c1e07ab42", "--samplers --out pictures"),
)
def pictures(args: argparse.Namespace) -> int:
    """Draw what a trained model does, or what the samplers draw, and say where."""
    from harness import process
    from harness.pictures import of_model

    process.use_own_cores()
    _say(*map(str, of_model.make(args.trial, args.out, samplers_too=args.samplers)))
    return 0


@verb(
    "prepare a dataset: data prepare NAME --source PATH --out FILE.zip",
    option("action", choices=("prepare",)),
    option("name", help="noto_emoji, lsun_cat, lsun_church, ffhq, or folder"),
    option("--source", type=Path, required=True, help="what was downloaded: archive, LMDB or folder"),
    option("--out", type=Path, required=True, help="the ZIP to write, in StyleGAN's format"),
    option("--resolution", type=int, help="side of the images (default: the set's own)"),
    option("--crop", help="what is not square: none (refused), centre (cut), pad (with black; default: the set's own)"),
    option("--filter", help="resize filter: box, lanczos, bicubic, ... (default: the set's own)"),
    option("--max-images", type=int, help="stop after so many"),
    option("--workers", type=int, help="processes (default: one per core)"),
    examples=(
        "prepare folder --source photos --out photos64.zip --crop centre --resolution 64",
        "prepare lsun_cat --source cat --out lsun-cat-10k.zip --max-images 10000",
    ),
)
def data(args: argparse.Namespace) -> int:
    """Write a dataset in StyleGAN's ZIP format from what was downloaded."""
    from harness import console
    from harness.data.prepare import prepare

    with console.counting(args.name) as progress:
        made = prepare(
            args.name, args.source, args.out, resolution=args.resolution, filter=args.filter, crop=args.crop,
            max_images=args.max_images, workers=args.workers, progress=progress,
        )  # fmt: skip
    _say(*(f"--source: {args.source}: {note}" for note in made.notes))
    _say(f"{args.out}: {made.images} images of {made.resolution}x{made.resolution}, {made.size_bytes} bytes")
    return 0


# ── what several of them do ──────────────────────────────────────────────────


def _use_inception_weights(args: argparse.Namespace) -> None:
    """Trials run in processes of their own, which inherit the environment."""
    if args.inception_weights:
        os.environ["NASHBOARD_INCEPTION_WEIGHTS"] = str(args.inception_weights.absolute())


def _device(args: argparse.Namespace) -> str:
    import torch

    return "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"


def _begin(args: argparse.Namespace) -> None:
    """Say what is being done before torch is loaded, which the plugins that an experiment names bring."""
    _say(f"{args.experiment}: looking up its trials in {args.results}")


def _recognised(args: argparse.Namespace, recall: bool = True) -> "Found":
    """The experiment with its trials as results know them; says what is to be said of that. `recall`: its cells that
    the last matrix found impossible are marked."""
    from harness.experiment import files
    from harness.orchestration import possible, recognise

    found = recognise.recognise(files.load(args.experiment, args.set), args.results.absolute())
    _say(*found.notes)
    return found._replace(experiment=possible.recalled(found.experiment, args.results.absolute())) if recall else found


def _shown(rep: "Report", written: Sequence[Path]) -> list[Any]:
    """Say a report's tables and where it is; returns what was said."""
    from harness.report import tables

    page = next(path for path in written if path.name == "report.html")
    said = [*(astuple(tables.grid(t)) for t in rep.tables), f"report: {page}"]
    _say(*said)
    return said


def _say(*said: Any) -> None:
    """Print lines (str) and tables (Grid, or its fields)."""
    from harness import console

    for one in said:
        if isinstance(one, str):
            console.say(one)
        else:
            title, header, rows, notes, _ = one if isinstance(one, Sequence) else astuple(one)
            console.show_table(title, header, rows, notes=notes)


# ── the program ──────────────────────────────────────────────────────────────


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 all done, 1 some trial not, 2 bad input, 3 busy, 130 interrupted."""
    from harness import streams

    with streams.unfailing():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from harness import command, disk, proxies
    from harness.store import remote

    proxies.spare_this_machine()
    disk.use_own_compiler_folder()

    def run() -> int:
        args.results = remote.folder(args.results)
        disk.check_folder(args.results, "--results")
        return VERBS[args.verb].run(args)

    return command.ended(run, args.results)


def command() -> NoReturn:
    """The program: `main`, after which a Ctrl-C has nothing left to stop, and must not take the place of its word."""
    from harness import process

    process.end_as_by_ctrl_c()
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    command()
