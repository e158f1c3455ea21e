"""`make contract`: every variant on every backbone, with labels and without, through two processes that are kept.

    python -m tests.contract [WORD ...]      only cells in whose name every WORD stands: san, r3gan, unconditional

One line a cell: ok, or `not possible: ` and the reason that the harness gives, which must be listed. All else fails.
"""

import sys
import time
from collections.abc import Sequence

from harness import outside
from tests.contract import EXAMPLE, NOT_POSSIBLE, cells, pair


def main(words: Sequence[str] = ()) -> int:
    outside.use([outside.read(EXAMPLE)])
    chosen = [cell for cell in cells.grid() if set(words) <= set(str(cell).split())]
    unknown = [(b, v) for b, v in NOT_POSSIBLE if b not in cells.BACKBONES or v not in cells.VARIANTS]
    failed = [f"NOT_POSSIBLE: {backbone}, {variant}: no such pair" for backbone, variant in unknown]
    if not chosen:
        failed.append(f"{' '.join(words)}: no such cell")
    began, cpu_s = time.monotonic(), 0.0
    try:
        with pair.kept() as both:
            for n, cell in enumerate(chosen, 1):
                good, said = both.judge(cell)
                cpu_s += both.cpu_s
                print(f"{n:4}/{len(chosen)}  {time.monotonic() - began:5.0f} s  {cell}: {said}", flush=True)
                failed += [] if good else [str(cell)]
    except pair.Ended as e:
        failed.append(f"{cell}: {e}")
    print(f"{len(chosen)} cells, {len(failed)} failed, {cpu_s:.0f} s of CPU")
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
