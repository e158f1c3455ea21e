"""How much the batch moves DI for a discriminator with minibatch statistics.

    python bench/di_batch.py            trains a small StyleGAN2 on `synthetic`, about two minutes on one core

The same fakes and reals are scored by the same D, in homogeneous batches of different sizes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from backbones import stylegan2  # noqa: E402
from harness import rng
from harness.datasets import synthetic  # noqa: E402
from harness.evaluation import evaluate, scores
from harness.evaluation.fakes import fake_batches, score, to_float  # noqa: E402
from harness.method.generator import SpatialGenerator  # noqa: E402

STEPS, BATCH, POOL = 300, 16, 1024


def main() -> None:
    data = synthetic.load(synthetic.Options(num_images=POOL))
    torch.manual_seed(0)
    options = stylegan2.Options(z_dim=32, w_dim=32, mapping_layers=2, channel_base=512, channel_max=32)
    backbone, d = stylegan2.build(options, 32, 0)
    g = SpatialGenerator(backbone)
    adam_g, adam_d = (torch.optim.Adam(m.parameters(), 2.5e-3, (0.0, 0.99)) for m in (g, d))
    for step in range(STEPS):
        draws = rng.Streams(0, "bench", step)
        rows = torch.randint(POOL, (BATCH,), generator=draws("rows"))
        reals = to_float(torch.from_numpy(data.images[rows.numpy()])).requires_grad_(step % 8 == 0)
        fakes = g(backbone.sample_z(BATCH, draws("z")), draws=draws).images
        on_reals, on_fakes = d(reals)[0], d(fakes.detach())[0]
        loss = F.softplus(-on_reals).mean() + F.softplus(on_fakes).mean()
        if reals.requires_grad:  # lazy R1, gamma 1
            (gradient,) = torch.autograd.grad(on_reals.sum(), reals, create_graph=True)
            loss = loss + 8 * 0.5 * gradient.square().sum((1, 2, 3)).mean()
        adam_d.zero_grad()
        loss.backward()
        adam_d.step()
        adam_g.zero_grad()
        F.softplus(-d(fakes)[0]).mean().backward()
        adam_g.step()

    g.eval(), d.eval()
    with torch.no_grad():
        batches = fake_batches(g, POOL, BATCH, seed=0, labels=None, device="cpu")
        fakes = torch.cat([images for images, _ in batches]).numpy()
    group = options.mbstd_group
    print(f"StyleGAN2, {STEPS} steps of {BATCH}, minibatch-stddev group {group}; {POOL} + {POOL} scores\n")
    print("| batch | DI exact | se | calibrated DI | AUC |\n|---|---|---|---|---|")
    for size in (4, 8, 16, 64):
        real, fake = (
            evaluate.score_reals(d, images, None, POOL, batch_size=size, seed=0, device="cpu")
            for images in (data.images, fakes)
        )
        di, calibrated = scores.exact_di(real, fake, 64), scores.calibrated_di(real, fake, 64)
        auc = scores.auc(real, fake).value
        print(f"| {size} | {di.value:.3f} | {di.se:.3f} | {calibrated.value:.3f} | {auc:.3f} |")
    mixed = torch.randperm(2 * POOL, generator=rng.stream(0, "mixed")).numpy()
    both = torch.from_numpy(np.concatenate([data.images, fakes])[mixed])
    with torch.no_grad():
        found = torch.cat([torch.from_numpy(score(d, x, None)) for x in both.split(16)]).numpy()
    real, fake = found[mixed < POOL], found[mixed >= POOL]
    di, calibrated = scores.exact_di(real, fake, 64), scores.calibrated_di(real, fake, 64)
    auc = scores.auc(real, fake).value
    print(f"| 16, reals and fakes mixed | {di.value:.3f} | {di.se:.3f} | {calibrated.value:.3f} | {auc:.3f} |")


if __name__ == "__main__":
    main()
