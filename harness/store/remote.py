"""Results behind a URL (s3://, gs://, file://, ...): local folders in front of it, and what travels when.

A trial works in a scratch folder of its node. Its files go to the URL in the order in which they commit one
another: data, then the pointer that names them, result.json last. Whoever reads pointers before data so finds at any
moment a state that once was. The driver keeps a folder in front of the URL and refreshes it while trials run, for all
that reads results: sink, status, report.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from harness.disk import cache_folder, read_json
from harness.errors import UserError, redact
from harness.store.bucket import FILES, POINTERS, Store, digest

EVERY_S = 1.0
TRIES, PAUSE_S = 6, 2.0  # for what must arrive: the end of an attempt; the pause doubles
RUNNING = (".safetensors", "/attempt")  # what a driver leaves at the URL while trials run: it counts attempts itself
REFUSED = re.compile("Credential|Authenti|Permission|ParamValidation|InvalidBucket")  # in names of exceptions' types
T = TypeVar("T")

_url: str | None = None
_answered = False  # since `use`


def url() -> str | None:
    """Where this process has its results, if that is a URL; with its password, so neither stored nor shown."""
    return _url


def use(url: str | None) -> None:
    """Have results at `url`: a worker hears it by the argument of a call, for Ray shows what environments hold."""
    global _url, _answered
    _url, _answered = url, False


# ── a worker ─────────────────────────────────────────────────────────────────


def begin(trial: str, into: Path) -> Store:
    """A store that has brought what the URL holds of the trial into its scratch folder `into`, listed or not."""
    store = Store(str(_url))
    store.pull(f"trials/{trial}", into, sure=_named(store, trial))
    return store


def _named(store: Store, trial: str) -> list[str]:
    """Paths of a trial's files which a late listing may lack: as its last sender named them."""
    names = {FILES, *POINTERS}
    with suppress(ValueError):
        names |= set(json.loads(store.read(f"trials/{trial}/{FILES}") or b"[]"))
    return [f"trials/{trial}/{name}" for name in sorted(names)]


def give(store: Store, path: Path, under: str) -> None:
    """Send a scoring's result, with its pictures, to a trial that another attempt owns; none whose networks are not
    there any more, because they were put away."""
    result = read_json(path)
    if store.version(f"{under}/checkpoints/{result.get('networks')}") is not None:
        for name in (*result.get("figures", {}).values(), path.name):
            store.put(path.parent / name, f"{under}/{name}")


# ── the driver ───────────────────────────────────────────────────────────────


def folder(text: str) -> Path:
    """What `--results` names: a folder, or the one in front of a URL, filled with what is there."""
    use(None)
    if "://" not in text:
        return Path(text)
    Store(text)  # a URL of no known kind ends here, before anything is made
    use(text.rstrip("/"))
    front = cache_folder() / "results" / _place(text.rstrip("/"))
    front.mkdir(parents=True, exist_ok=True)
    (front / "url").write_text(redact(text), encoding="utf-8")
    refresh(front)
    return front


def _place(url: str) -> str:
    """A name for what lies at `url`: of who looks, but not by which password."""
    user = re.match(r"[^:]+:+//+([^:@/]*):[^@]*@", url)
    return digest(f"{user[1] if user else ''}{redact(url)}".encode())[:12]


def refresh(front: Path, leave: tuple[str, ...] = (".safetensors",)) -> None:
    """Bring the folder in front of the URL up to date."""
    reach(lambda: Store(str(_url), front / ".seen.json").pull("trials", front / "trials", leave))


def catch_up(front: Path, results: Mapping[str, Iterable[str]]) -> None:
    """Bring into the folder in front of the URL, if there is one, those trials of `results`, {trial: names of files},
    of which one of these results is there: a listing may be late, and knows nothing then of what is new, or has another
    content."""
    if _url is None:
        return
    store = Store(_url, front / ".seen.json")
    asked = {f"trials/{id}/{name}": id for id, names in results.items() for name in names}
    with ThreadPoolExecutor(8) as pool:
        versions = dict(zip(asked, pool.map(lambda path: reach(partial(store.version, path)), asked), strict=True))
    news: dict[str, list[str]] = {}
    for path, id in asked.items():
        if versions[path] is not None and not (store.seen.get(path) == versions[path] and (front / path).exists()):
            news.setdefault(id, []).append(path)
    for id, paths in news.items():
        reach(partial(_bring, store, id, front, paths))


def _bring(store: Store, trial: str, front: Path, results: Sequence[str]) -> None:
    store.pull(f"trials/{trial}", front / "trials" / trial, RUNNING, {*_named(store, trial), *results})


def check_writable() -> None:
    """Raise UserError where results go to a URL at which nothing can be written."""
    if _url is not None:
        reach(Store(_url).probe, "can't be written", tries=3)


@contextmanager
def refreshed(front: Path) -> Iterator[None]:
    """While within, and once at the end, what trials leave at the URL comes to the folder in front of it."""
    if _url is None:
        yield
        return
    store = Store(_url, front / ".seen.json")

    def pull() -> None:
        store.pull("trials", front / "trials", RUNNING)

    with again_and_again(pull):
        yield


def claim(trial: str, least: int) -> int:
    """Number an attempt at the trial at the URL, from `least` on, as no other driver ever numbers one."""
    store, under, mine = Store(str(_url)), f"trials/{trial}", uuid.uuid4().hex.encode()

    def number() -> int:
        number = max(least, int(store.read(f"{under}/attempt") or 0) + 1)
        while not store.create(f"{under}/.attempts/{number}", mine):
            number += 1
        store.write(f"{under}/attempt", str(number).encode())
        return number

    return reach(number)


def publish(path: Path, to: str) -> None:
    """Send a file of the driver's, or all of a folder, to the URL, if there is one."""
    if _url is None:
        return
    store = Store(_url)
    for p in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if not p.name.startswith("."):
            name = to if p == path else f"{to}/{p.relative_to(path).as_posix()}"
            reach(partial(store.put, p, name), f"{name} did not arrive")


def read(path: str) -> bytes | None:
    """What lies at `path` at the URL; None where nothing does."""
    return reach(partial(Store(_url or "").read, path))


def is_free(under: str) -> bool:
    """Whether nothing lies below `under` at the URL, if there is one."""
    return _url is None or reach(partial(Store(_url).is_free, under))


def supersede(trial: str, to: str) -> None:
    """Move what lies at the URL, if there is one, of a trial to `to`. The number of its last attempt stays: without
    it there would be a moment in which a worker that was given up may write."""
    if _url is None:
        return
    store = Store(_url)

    def move() -> None:
        store.move(f"trials/{trial}", to, stays=("attempt", ".attempts"), sure=_named(store, trial))

    reach(move, f"trials/{trial} could not be moved to {to}", tries=1)  # to where nothing may be yet


@contextmanager
def again_and_again(
    act: Callable[[], None], last: Callable[[], None] | None = None, every_s: float | None = None
) -> Iterator[None]:
    """`act` every `every_s`, else about every second, while within, whether it fails or not; at the end, when it is not
    under way any more, `last`: without one, `act` once more, which must not fail then."""
    done = threading.Event()

    def work() -> None:
        while not done.wait(every_s or EVERY_S):
            with suppress(Exception):  # whatever a network and fsspec's backends raise
                act()

    thread = threading.Thread(target=work, name="results", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        last() if last else insist(act)


def reach(act: Callable[[], T], failed: str = "gives no answer", tries: int = TRIES) -> T:
    """`insist` for a driver: UserError, which says what `failed`, where nothing helps. At once where a store that has
    never answered refuses us: no waiting brings credentials or a bucket's right name."""
    global _answered
    try:
        result = insist(act, tries, lambda e: not _answered and _refuses(e))
    except Exception as e:  # whatever a network and fsspec's backends raise
        cure = "set the credentials or the name that it asks for" if _refuses(e) else "try later"
        raise UserError(f"--results {_url}: {failed} ({type(e).__name__}: {e}); {cure}, or give another") from None
    _answered = True
    return result


def insist(act: Callable[[], T], tries: int = TRIES, hopeless: Callable[[Exception], bool] = lambda _: False) -> T:
    """Try until the network is back, for about a minute, unless an error is `hopeless`."""
    for nth in range(tries - 1):
        try:
            return act()
        except Exception as e:
            if hopeless(e):
                raise
            time.sleep(PAUSE_S * 2**nth)
    return act()


def _refuses(e: Exception) -> bool:
    """Whether a backend says that it is the caller who is wrong. Each has types of its own, which are told by name; of
    a file system, any error does."""
    if isinstance(e, OSError) and str(_url).startswith("file:"):
        return True
    return any(REFUSED.search(kind.__name__) for kind in type(e).__mro__)
