"""Every measurement: `python -m bench` runs them one after another, `python -m bench --list` names them.

One alone, with its own options: `python -m bench.method_cost --help`.
"""

import ast
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    modules = sorted(p for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    failed = []
    for path in modules:
        about = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        print(f"bench.{path.stem}: {about}", flush=True)
        if (
            "--list" not in sys.argv
            and subprocess.run([sys.executable, "-m", f"bench.{path.stem}"], cwd=HERE.parent).returncode
        ):
            failed.append(path.stem)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
