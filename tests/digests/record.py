"""Record the digests of this ground: `python -m tests.digests.record --why "..." [--arms NAME ...]`.

`--arms` names the arms that are meant to move; another that moved is refused and nothing is written. A ground without
a record, whose values agree with the recorded ones, needs none. An arm may move only with an `EPOCH` that it hangs on.
The digests of the files at hand are added to those that the package knows (`tests.digests.known`). Commit what this
writes with the raised EPOCH and nothing else, with the same reason.
"""

import argparse
import sys

from harness.errors import UserError
from tests.digests import arms, records
from tests.digests import known as digests


def record(why: str, meant: list[str]) -> str:
    """Train all arms, record what may be; returns what was done in one line. Raises UserError, nothing written."""
    unknown = sorted(set(meant) - set(arms.ARMS))
    if unknown:
        raise UserError(f"--arms: {' '.join(unknown)}: no such arm; there are {' '.join(arms.ARMS)}")
    if not why.strip():
        raise UserError("--why: empty; say in a few words why numbers move or what ground this is")
    known, here = records.Records(), records.ground()
    found = {arm: arms.trained(arm) for arm in arms.ARMS}
    moved = [arm for arm in found if not known.same(here, arm, found[arm])]
    if stray := [arm for arm in moved if arm not in meant]:
        raise UserError(f"--arms: {' '.join(stray)}: moved but not named; undo what moves them or name them")
    if still := [arm for arm in meant if arm not in moved]:
        raise UserError(f"--arms: {' '.join(still)}: named but did not move; leave them out")
    if same := [arm for arm in moved if known.hashes and arms.epochs(arm) == known.epochs.get(arm, {})]:
        raise UserError(f"--arms: {' '.join(same)}: moved under its EPOCH; raise that of the file that moves it")
    new = [arm for arm in found if known.hash(here, arm) is None or arm in moved]
    if not new:
        return "nothing moved, and this ground has its record: nothing to write"
    for arm in new:
        known.take(here, arm, found[arm])
        known.epochs[arm] = arms.epochs(arm)
    known.why.append({"why": why.strip(), "arms": moved, "ground": here})
    known.write()
    digests.record()
    return f"recorded on {here}: {len(new)} hashes; moved: {' '.join(moved) or 'none'}"


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.digests.record", description=__doc__.split("\n")[0])
    parser.add_argument("--why", required=True, help="the reason, kept beside the hashes")
    parser.add_argument("--arms", nargs="+", default=[], metavar="NAME", help="the arms that are meant to move")
    asked = parser.parse_args(words)
    try:
        print(record(asked.why, asked.arms))
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
