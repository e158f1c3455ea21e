"""Draws docs/figures/di.png: what DI says, and what it hides.

python bench/di_figure.py
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from harness.evaluation import scores  # noqa: E402

POOL, REAL, FAKE = 20_000, "#1f6f8b", "#c8553d"


def main() -> None:
    real = fake = stats.norm.ppf((np.arange(POOL) + 0.5) / POOL)
    gaps = np.linspace(0, 6, 25)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3), layout="constrained")

    bins = np.linspace(-4.5, 4.5, 70)
    left.hist(real, bins, color=REAL, alpha=0.5, label="D(real)")
    left.hist(fake, bins, color=FAKE, alpha=0.5, label="D(fake)")
    low, high = scores.expected_minimum(real, 64)[0], -scores.expected_minimum(-fake, 64)[0]
    left.axvline(low, color=REAL)
    left.axvline(high, color=FAKE)
    left.annotate("", (low, 1150), (high, 1150), arrowprops={"arrowstyle": "<->"})
    left.text(0, 1180, f"DI = {low - high:.1f}", ha="center")
    left.set(title="equilibrium: equal scores, n = 64", xlabel="raw score", yticks=[], ylim=(0, 1400))
    left.legend(fontsize=7, loc="upper right")

    for n, style in ((8, ":"), (64, "-"), (512, "--")):
        values = [scores.expected_di(real + g, fake, n) for g in gaps]
        middle.plot(gaps, values, style, color="black", label=f"n = {n}")
    middle.axhline(0, color="0.7", lw=0.8)
    middle.set(title="DI depends on n", xlabel="gap of the means / std", ylabel="DI / std")
    middle.legend(fontsize=7)

    for scale, colour in ((1, "black"), (3, "0.6")):
        label = "logits" if scale == 1 else f"logits x {scale}"
        plain = [scores.expected_di(scale * (real + g), scale * fake, 64) for g in gaps]
        right.plot(gaps, plain, color=colour, label=f"DI, {label}")
    calibrated = [scores.calibrated_di(real + g, fake, 64).value for g in gaps]
    right.plot(gaps, calibrated, color=REAL, lw=2.5, label="calibrated DI, both")
    right.axhline(0, color="0.7", lw=0.8)
    right.set(title="... and on the scale of D", xlabel="gap of the means / std")
    right.legend(fontsize=7)

    path = ROOT / "docs" / "figures" / "di.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
