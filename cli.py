"""nashboard: is the GAN closer to equilibrium, and are its images closer to the data?

Each verb imports what it needs, so that --help answers at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from harness.experiment.spec import Experiment
    from harness.report.model import Report

DESCRIPTION = "Train GANs with and without spatial awareness, score FID and DI, and compare."


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything here does."""

    def error(self, message: str) -> NoReturn:
        from harness.errors import redact

        self.exit(2, f"{self.prog}: {redact(' '.join(message.split()))}; see {self.prog} --help\n")


class Verb(NamedTuple):
    """What a word of the command line does, and the options it takes."""

    run: Callable[[argparse.Namespace], int]
    what: str
    options: tuple["Option", ...]


class Option(NamedTuple):
    names: tuple[str, ...]
    how: dict[str, Any]


VERBS: dict[str, Verb] = {}


def option(*names: str, **how: Any) -> Option:
    """One option, as `add_argument` takes it."""
    return Option(names, how)


def verb(
    what: str, *options: Option
) -> Callable[[Callable[[argparse.Namespace], int]], Callable[[argparse.Namespace], int]]:
    """Enter a function into VERBS under its name."""

    def enter(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
        VERBS[run.__name__.replace("_", "-")] = Verb(run, what, options)
        return run

    return enter


def parser() -> argparse.ArgumentParser:
    top = Parser("nashboard", description=DESCRIPTION)
    words = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, v in VERBS.items():
        p = words.add_parser(name, help=v.what, description=v.what)
        one_of = [o for o in v.options if o.how.get("dest") == OTHER_CODE]
        group = p.add_mutually_exclusive_group() if one_of else p  # --help of an empty group is an error
        for o in (*v.options, RESULTS):
            (group if o in one_of else p).add_argument(*o.names, **o.how)
    return top


RESULTS = option("--results", default="results", help="folder of results, or its URL (default: results)")
EXPERIMENT = (
    option("experiment", help="an experiment file, or the name of a shipped one (smoke, table2, ...)"),
    option("--set", action="append", default=[], metavar="KEY=VALUE", help="override any key; may be repeated"),
)
TRACKING = option("--tracking-uri", metavar="URI", help="MLflow server (default: a SQLite file in results)")
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
)  # fmt: skip
def matrix(args: argparse.Namespace) -> int:
    """Preflight, run what is unfinished, report; 0 when every trial is done."""
    from harness import console
    from harness.experiment import files
    from harness.orchestration import cluster, finished
    from harness.store import remote

    _use_inception_weights(args)
    words = [str(args.results), str(args.tracking_uri), *args.set]
    key = finished.key(args.experiment, words, files.plugin_folders(args.experiment, args.set))
    plain = args.other_code == "ask" and not args.rescore and not args.accept_old and remote.url() is None
    if plain and (said := finished.recall(args.results, key)):
        _say(said)
        return 0
    if args.ray_address and not args.local:
        cluster.reach(args.ray_address)  # before torch is loaded and anything is read
    with _loading():
        from harness.orchestration import matrix, recognise
        from harness.store.folder import RESULT, answer

    experiment = files.load(args.experiment, args.set)
    data = finished.stamps(recognise.paths(experiment))  # before anybody looks: what changes meanwhile is not noted
    made = matrix.run(
        experiment, args.results, launcher="inline" if args.local else "ray",
        address=args.ray_address, ship_code=args.code == "ship", tracking_uri=args.tracking_uri,
        retry_failed=args.retry_failed, other_code=args.other_code, rescore=args.rescore, accept_old=args.accept_old,
        say=console.say, display=console.Progress,
    )  # fmt: skip
    said = _shown(made.report, made.written)
    if made.exit_code == 0 and made.told:
        trials = args.results.absolute() / "trials"
        said["first"] = matrix.counted(made.experiment, len(made.trials), len(made.trials))
        answers = (answer(trials / e.id, e.trial) or trials / e.id / RESULT for e in made.trials)
        depends = [*answers, *made.written, *made.books]
        folder = trials.parent / made.experiment.name
        finished.keep(folder, key, said, depends, data, matrix.code_outside(made.trials))
    return made.exit_code


@verb(
    "print the unique trials, what they cost and when they would end; run nothing",
    *EXPERIMENT,
    option("--gpus", type=int, nargs="+", default=[1, 8, 64], help="sizes of cluster to plan for (default: 1 8 64)"),
)
def plan(args: argparse.Namespace) -> int:
    """Print the unique trials in launch order, which cells each serves, what they cost and when they would end.

    What `matrix` would refuse is refused, but for images and weights that are not here yet: nothing is fetched.
    """
    _begin(args)
    from harness import console
    from harness.errors import UserError
    from harness.experiment.matrix import entries
    from harness.orchestration import fit, possible
    from harness.orchestration import plan as plans
    from harness.process import cores
    from harness.store import claim
    from harness.store.folder import finished
    from harness.trial.preflight import preflight

    if min(args.gpus) < 1:
        raise UserError(f"--gpus {min(args.gpus)}: must be 1 or more")
    experiment, absent = _recognised(args, recall=False)
    claim.check(experiment, args.results.absolute())
    todo = [e.trial for e in entries(experiment) if not finished(args.results / "trials" / e.id, e.trial)]
    fit.check(todo, experiment.run)
    refused = possible.asked(experiment)
    for line in preflight(todo, str(experiment.path), unseen=plans.unseen, mark=refused):
        console.say(line)
    experiment = possible.marked(experiment, refused)
    made = plans.table(experiment, args.results, absent, args.gpus, cores())
    console.show_table(made.title, made.header, made.rows, notes=made.notes)
    return 0


@verb("write tables, results.csv and report.html from what is finished", *EXPERIMENT)
def report(args: argparse.Namespace) -> int:
    """Write and print the tables as far as they are known."""
    from harness.orchestration import matrix
    from harness.report.collect import collect
    from harness.report.write import check_begun

    found = collect(_recognised(args)[0], args.results.absolute())
    check_begun(found, args.results)
    _shown(found, matrix.write(found, args.results.absolute()))
    return 0


@verb("show the progress of an experiment's trials", *EXPERIMENT)
def status(args: argparse.Namespace) -> int:
    """One line per trial, read from the results folder: works beside a running matrix."""
    _begin(args)
    from harness import console
    from harness.orchestration import status as states

    made = states.table(_recognised(args)[0], args.results)
    console.show_table(made.title, made.header, made.rows, notes=made.notes)
    return 0


@verb("ask the running matrix to save and stop, as Ctrl-C does", *EXPERIMENT)
def stop(args: argparse.Namespace) -> int:
    """Do what Ctrl-C does to the driver that runs the experiment."""
    from harness import console
    from harness.experiment import files
    from harness.store import lease

    who = lease.request_stop(args.results / files.load(args.experiment, args.set).name)
    console.say(f"asked {who} to save and stop")
    return 0


@verb("send everything in results to MLflow, also after its database was lost", *EXPERIMENT, TRACKING)
def sync(args: argparse.Namespace) -> int:
    """Send what results hold to MLflow."""
    from harness import console
    from harness.experiment.matrix import entries
    from harness.report import tables
    from harness.report.collect import collect
    from harness.report.write import check_begun
    from harness.store import claim
    from harness.tracking.sink import sync as send

    experiment, _ = _recognised(args)
    rep = collect(experiment, args.results.absolute())
    check_begun(rep, args.results)
    claim.check(experiment, args.results.absolute())
    uri = send(args.results, experiment.name, entries(experiment), args.tracking_uri, tables.note(rep))
    console.say(f"MLflow is up to date: {uri}")
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
)
def eval(args: argparse.Namespace) -> int:  # noqa: A001 - the verb's name
    """Score one trained model in one pass and print every record."""
    import json

    import torch

    from harness import console, disk
    from harness.errors import UserError
    from harness.evaluation import evaluate
    from harness.report import networks, tables
    from harness.training import trained

    _use_inception_weights(args)
    _use_own_cores()
    sets = list(args.set)
    if args.num_fakes is not None:
        sets.append(f"eval.num_fakes={args.num_fakes}")
    cuda = args.device != "cpu" and torch.cuda.is_available()
    model = trained.load(args.model, "cuda" if cuda else "cpu", sets, args.metrics.split(",") if args.metrics else ())
    evaluate.check(model.trial.eval, model.data, model.heldout)
    if args.out:
        if args.out.is_dir():
            raise UserError(f"--out {args.out}: is a folder; name a file")
        disk.check_writable(args.out.parent, "--out")
    with console.counting("images") as progress:
        records = evaluate.evaluate(
            model.g, model.d, model.data, model.heldout, model.trial.eval, seed=model.trial.seed,
            conditional=model.trial.conditional, device="cuda" if cuda else "cpu", cache=disk.cache_folder(),
            weights_used=model.weights, workers=args.workers, progress=progress,
        )  # fmt: skip
    noted = {r: found for r, record in records.items() if (found := networks.shared(model.trial, record["protocol"]))}
    notes = [networks.note(name, [str(args.model)], network) for name, network in noted.items()]
    rows = [
        (name, tables.number(r["value"]), "" if r["se"] is None else f"{r['se']:.2g}") for name, r in records.items()
    ]
    console.show_table(
        f"{args.model} after {model.nimg} images ({model.weights} G)", ("metric", "value", "se"), rows, notes=notes
    )
    if args.out:
        disk.write_atomic(args.out, json.dumps(records, indent=1).encode())
    return 0


@verb(
    "measure where D looks and what heatmaps move, for an experiment's finished trials",
    *EXPERIMENT,
    option("--images", type=int, default=1024, help="images per measure (default: 1024)"),
    option("--readings", choices=["all"], help="every reading of L_align beside the others, on each trial"),
    DEVICE,
)
def attention(args: argparse.Namespace) -> int:
    """Probe every finished trial, print one table, and write it with its figures."""
    import torch

    from harness import console
    from harness.study import report as attention_report

    _use_own_cores()
    experiment, _ = _recognised(args)
    made = attention_report.make(
        experiment, args.results.absolute(), count=args.images, say=console.say,
        device="cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu",
        every_reading=args.readings is not None,
    )  # fmt: skip
    for grid in filter(None, (attention_report.grid(made), attention_report.readings_grid(made))):
        console.show_table(grid.title, grid.header, grid.rows, notes=grid.notes)
    console.say(f"attention: {made.folder / 'attention.md'} with {len(made.figures)} figures")
    return 0


@verb(
    "turn a published StyleGAN2 or EqGAN-SA pickle into a checkpoint",
    option("pickle", type=Path, help="network.pkl with G, D and G_ema; nothing in it is executed"),
    option("--out", type=Path, help="a .safetensors file, or a folder (default: beside the pickle)"),
)
def import_weights(args: argparse.Namespace) -> int:
    """Turn a network pickle into a checkpoint, and say what it holds and what was left behind."""
    from harness import console
    from harness.weights import importer as weights

    made = weights.import_weights(args.pickle, args.out or args.pickle.parent / f"{args.pickle.stem}.safetensors")
    parts = " + ".join([made.trial.backbone.name, *(v.name for v in made.trial.variants)])
    kind = "conditional" if made.trial.conditional else "unconditional"
    console.say(f"{args.pickle}: {parts}, {made.resolution}x{made.resolution}, {kind}")
    for name, count in made.networks.items():
        console.say(f"  {name}: {count:,} numbers, all names and shapes met")
    for note in made.notes:
        console.say(f"  {note}")
    told = made.trial.dataset.options.path
    console.say(f"{made.file}: score it with: nashboard eval {made.file} --set dataset.path=FILE (recorded: {told})")
    return 0


@verb(
    "serve MLflow over results on this machine",
    option("experiment", nargs="?", help="open this experiment's view"),
    option("--port", type=int, default=5000),
    option("--no-browser", action="store_true", help="print the link only"),
)
def ui(args: argparse.Namespace) -> int:
    """Serve MLflow on loopback until Ctrl-C."""
    from harness import console
    from harness.tracking import server as mlflow_server

    mlflow_server.ui(args.results, args.experiment, args.port, browse=not args.no_browser, say=console.say)
    return 0


@verb(
    "draw a trained model's samples, attention and heatmap edits, or the samplers",
    option("trial", nargs="?", type=Path, metavar="TRIAL_FOLDER", help="a folder under results/trials"),
    option("--samplers", action="store_true", help="draw heatmaps of every sampler; needs no trial"),
    option("--out", type=Path, metavar="DIR", help="where to (default: pictures/ in the trial's folder)"),
)
def pictures(args: argparse.Namespace) -> int:
    """Draw what a trained model does, or what the samplers draw."""
    from harness import console, disk
    from harness.errors import UserError
    from harness.pictures import of_model as draw
    from harness.training import trained

    if not args.trial and not args.samplers:
        raise UserError("pictures: nothing to draw; give a trial's folder, or --samplers with --out DIR")
    if args.samplers and not args.out:
        raise UserError("pictures --samplers: --out: missing; give a folder")
    _use_own_cores()
    model = trained.load(args.trial) if args.trial else None
    out = args.out or (args.trial if args.trial.is_dir() else args.trial.parent.parent) / "pictures"
    disk.check_writable(out, "--out")
    paths = draw.samplers(out) if args.samplers else []
    paths += draw.of_model(model, out) if model else []
    for path in paths:
        console.say(str(path))
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
    for note in made.notes:
        console.say(f"--source: {args.source}: {note}")
    console.say(f"{args.out}: {made.images} images of {made.resolution}x{made.resolution}, {made.size_bytes} bytes")
    return 0


@contextmanager
def _loading() -> Iterator[None]:
    """While libraries load, Ctrl-C ends the process at once, with 130. A KeyboardInterrupt raised inside an import
    may be swallowed there, or leave half a library that fails later."""
    from harness import process

    with process.on_ending(lambda *_: os._exit(130)):
        yield


def _use_inception_weights(args: argparse.Namespace) -> None:
    """Trials run in processes of their own, which inherit the environment."""
    if args.inception_weights:
        os.environ["NASHBOARD_INCEPTION_WEIGHTS"] = str(args.inception_weights.absolute())


def _use_own_cores() -> None:
    """Let torch, which heeds what this process is bound to but no control group, have no more threads than cores."""
    import torch

    from harness.process import cores

    torch.set_num_threads(min(torch.get_num_threads(), cores()))


def _begin(args: argparse.Namespace) -> None:
    """Say what is being done before torch is loaded, which the plugins that an experiment names bring."""
    from harness import console

    console.say(f"{args.experiment}: looking up its trials in {args.results}")


def _recognised(args: argparse.Namespace, recall: bool = True) -> "tuple[Experiment, frozenset[str]]":
    """The experiment with its trials as results know them, and the ids of those whose images are not here; says what
    is to be said of that. `recall`: with its cells that the last matrix found impossible marked."""
    from harness import console
    from harness.experiment import files
    from harness.experiment.matrix import entries
    from harness.orchestration import possible, recognise, shared
    from harness.store.folder import finished

    found = recognise.recognise(files.load(args.experiment, args.set), args.results.absolute())
    experiment = possible.recalled(found.experiment, args.results.absolute()) if recall else found.experiment
    todo = entries(experiment)
    shared.catch_up((e for e in todo if not finished(args.results / "trials" / e.id, e.trial)), args.results)
    for line in found.notes:
        console.say(line)
    return experiment, found.absent


def _shown(rep: "Report", written: Sequence[Path]) -> dict[str, Any]:
    """Print a report's tables and where it is; returns what was said."""
    from harness.report import tables

    grids = [tables.grid(t) for t in rep.tables]
    said = {"tables": [(g.title, g.header, g.rows, g.notes) for g in grids], "written": list(map(str, written))}
    _say(said)
    return said


def _say(said: dict[str, Any]) -> None:
    from harness import console

    if "first" in said:
        console.say(said["first"])
    for title, header, rows, notes in said["tables"]:
        console.show_table(title, header, rows, notes=notes)
    console.say(f"report: {next(path for path in said['written'] if path.endswith('report.html'))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 all done, 1 some trial not, 2 bad input, 3 busy, 130 interrupted."""
    from harness import streams

    with streams.unfailing():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from harness import disk, proxies
    from harness.errors import Diverged, UserError
    from harness.store import remote

    proxies.spare_this_machine()
    disk.use_own_compiler_folder()
    try:
        args.results = remote.folder(args.results)
        disk.check_folder(args.results, "--results")
        return VERBS[args.verb].run(args)
    except OSError as e:
        if not disk.is_full(e):
            raise
        print(
            f"nashboard: {e.filename or args.results}: {e.strerror}; make room, then give the same command again",
            file=sys.stderr,
        )
        return 1
    except UserError as e:
        print(f"nashboard: {e}", file=sys.stderr)
        return e.exit_code
    except Diverged as e:
        print(f"nashboard: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command() -> NoReturn:
    """The program: `main`, after which a Ctrl-C has nothing left to stop, and must not take the place of its word."""
    from harness import process

    process.end_as_by_ctrl_c()
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    command()
