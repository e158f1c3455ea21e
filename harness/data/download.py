"""Fetching a published file: whole and with its checksum, or nothing is left."""

import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

from harness.disk import fresh
from harness.errors import UserError, one_line

TIMEOUT_S = 10.0

Progress = Callable[[int, int], None]
"""Told the bytes that are there and those of the whole."""


def printed(name: str) -> Progress:
    """A line to stderr at every tenth of the way."""

    def tell(done: int, total: int) -> None:
        step = max(1, total // 10)
        if done == total or done // step > (done - 2**20) // step:
            print(f"{name}: downloaded {done / 2**20:.0f} of {total / 2**20:.0f} MiB", file=sys.stderr, flush=True)

    return tell


def fetch(url: str, path: Path, size: int, sha256: str, place: str, remedy: str, progress: Progress) -> None:
    """Fetch `url`, of `size` bytes, to `path`. UserErrors begin with `place` and end with `remedy`."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # trials may start several downloads
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh(part) as f:
                while done <= size and (block := response.read(2**20)):
                    f.write(block)
                    digest.update(block)
                    done += len(block)
                    progress(done, size)
        if digest.hexdigest() != sha256:
            raise UserError(f"{place}: what was downloaded ({done} bytes) has another checksum; try again, or {remedy}")
        part.replace(path)
    except (OSError, http.client.HTTPException) as e:
        reason = one_line(getattr(e, "reason", None) or e)
        raise UserError(f"{place}: does not exist and can't be downloaded ({reason}); {remedy}") from None
    finally:
        part.unlink(missing_ok=True)
