"""`python -m tests.digests.known`: add the digests of the files at hand to harness/store/known_code.json.

A file whose change moves no number under its EPOCH is the same code as before for everybody's results; one that does
raises the EPOCH, which forgets what was before it. So this belongs behind the digests of trained arms, when they hold.
"""

import json

from harness.store import code


def record() -> list[str]:
    """Write the file anew; returns the modules that have a digest more."""
    before = json.loads(code.KNOWN.read_text()) if code.KNOWN.exists() else {}
    after = code.with_present(before)
    code.KNOWN.write_text(json.dumps(after, indent=1) + "\n")
    return [name for name in after if after[name] != before.get(name)]


if __name__ == "__main__":
    for name in record():
        print(name)
