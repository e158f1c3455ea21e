"""Put on PYTHONPATH by a test: troubles every Python process of a matrix, once the file that GREMLIN names exists."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

trouble, _, where = os.environ.get("GREMLIN", "").partition(":")
flag = Path(where)


def step_the_clock_back(seconds: int = 3600) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - seconds * flag.exists()
    time.time_ns = lambda: now_ns() - seconds * 10**9 * flag.exists()


def take_the_memory() -> None:
    """From the first worker that trains and finds the flag: no byte more than it has."""
    import resource

    while True:
        time.sleep(0.05)
        if "harness.trial.upkeep" in sys.modules and "default_worker" in " ".join(sys.orig_argv) and flag.exists():
            try:
                flag.rename(f"{flag}.used")
            except OSError:  # another was first
                return
            size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
            return


def slow_the_statistics(s: float = 8.0) -> None:
    """Of the real images: so long for each batch, in whichever process computes them."""
    while not hasattr(sys.modules.get("harness.evaluation.reals"), "_read"):  # the file's last name
        time.sleep(0.05)
    reals: Any = sys.modules["harness.evaluation.reals"]
    batches = reals._batches

    def slow(*args: object) -> object:
        for batch in batches(*args):
            time.sleep(s * flag.exists())
            yield batch

    reals._batches = slow


def slow_a_disk(seconds: float = 25) -> None:
    """Of the first process that saves a checkpoint and finds the flag, for one checkpoint."""
    while "harness.trial.upkeep" not in sys.modules or not hasattr(sys.modules["harness.trial.upkeep"], "Upkeep"):
        time.sleep(0.05)
    checkpoint: Any = sys.modules["harness.store.checkpoint"]
    save = checkpoint.save

    def slowly(*args: Any, **named: Any) -> Any:
        try:
            flag.rename(f"{flag}.used")
        except OSError:
            return save(*args, **named)
        time.sleep(seconds)
        return save(*args, **named)

    checkpoint.save = slowly


if trouble == "clock":
    step_the_clock_back()
elif trouble == "memory":
    threading.Thread(target=take_the_memory, daemon=True).start()
elif trouble == "statistics":
    threading.Thread(target=slow_the_statistics, daemon=True).start()
elif trouble == "disk":
    threading.Thread(target=slow_a_disk, daemon=True).start()
