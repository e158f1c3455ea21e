"""The training loop, top to bottom in one function. It knows no Ray, MLflow, metric, dataset or variant name."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.data.batches import batch, to_device
from harness.data.imageset import ImageSet
from harness.experiment.spec import Train
from harness.method import losses, schedules
from harness.method.generator import Fakes
from harness.method.hooks import ArmHooks, DStep, Filed, GStep, Kind, per_logit
from harness.rng import Streams, stream
from harness.training.order import Order
from harness.training.ranks import agree, gathered
from harness.training.state import State, Stats, crosses, paced

EPOCH = 1  # raised when the same trial trains to other numbers than before
EPOCH_RAMPUP = 2  # with `ema_rampup` (1: it counted the images of the step as well)
EPOCH_FP16 = 2  # in float16 (1: its losses were not scaled, and small gradients became 0)


def train(
    state: State,
    t: Train,
    data: ImageSet,
    hooks: ArmHooks,
    *,
    seed: int,
    conditional: bool,
    upkeep: Callable[[State], bool],
) -> bool:
    """Train until `t.total_kimg` thousand images were shown to D; False where `upkeep` asked to stop.

    `upkeep(state)` is called before every step: it reports, samples and saves. `hooks` are what
    the arm's variants do. Under torch.distributed each process takes its share of the
    microbatches; gradients, and what moves with each forward pass, are those of one process with the same microbatches.
    """
    g, d, opt_g, opt_d = state.g, state.d, state.opt_g, state.opt_d
    scale_g, scale_d = state.scales["g"], state.scales["d"]
    gan = hooks.adversarial or per_logit(losses.ADVERSARIAL[t.loss])
    device = state.pl_mean.device
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    size, parts = t.microbatch, t.batch_size // t.microbatch
    if parts % world:
        raise ValueError(f"train.batch_gpu: {parts} microbatches do not divide among {world} processes")
    order = Order(rank, world, parts, {"G": g, "D": d}, state.pl_mean)
    shown, stats = t.batch_size * t.d_steps, Stats()
    total = round(t.total_kimg * 1000)
    hooks.remember(state.memory, device)

    def autocast() -> torch.autocast:
        dtype = torch.float16 if t.precision == "fp16" else torch.bfloat16
        return torch.autocast(device.type, dtype, enabled=t.precision != "fp32")

    def fake_inputs(scope: str, n: int) -> tuple[Tensor, Tensor | None, Streams]:
        """Latents, labels from the data's own distribution, and the streams of one forward pass of G."""
        draws = Streams(seed, scope, state.nimg, device)
        z = g.backbone.sample_z(n, draws("z"))
        if not conditional:
            return z, None, draws
        assert data.labels is not None
        picked = torch.randint(len(data.labels), (n,), generator=stream(seed, f"{scope}/labels", state.nimg))
        return z, torch.from_numpy(data.labels[picked.numpy()]).to(device), draws

    def made(z: Tensor, labels: Tensor | None, draws: Streams) -> Fakes:
        with autocast():
            return g(z, labels, draws=draws, mixing=t.style_mixing)

    def see(images: Tensor, kind: Kind, draws: Streams) -> Tensor:
        return hooks.see(images, draws, kind, state.nimg, state.memory)

    def score_d(images: Tensor, labels: Tensor | None) -> Tensor:
        with autocast():
            return hooks.look(d, images, labels).d

    def score_g(images: Tensor, labels: Tensor | None) -> Tensor:
        with autocast():
            return hooks.look(d, images, labels).g

    def plus(loss: Tensor, terms: Iterable[Filed]) -> Tensor:
        for variant, place, term in terms:
            loss = loss + term.value
            for name, part in hooks.file(variant, place, term):
                stats.add(name, part)
        return loss

    def turns(phase: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        """My microbatches of a phase, which begins without gradients and ends with those of all microbatches."""
        mark = stats.mark()

        def begin() -> None:
            stats.back(mark)
            optimizer.zero_grad(set_to_none=True)

        return order.turns(phase, network, begin)

    while state.nimg < total:
        if agree(partial(upkeep, state)):
            return False
        stats = Stats()
        left = 1 - state.nimg / total if t.lr_decay == "linear" else 1.0
        opt_g.param_groups[0].update(paced(t.g, t.pl_interval, state.nimg, left))
        opt_d.param_groups[0].update(paced(t.d, t.r1_interval, state.nimg, left))

        # D: raise the scores of reals, lower those of fakes.
        d.requires_grad_(True)
        for k in range(t.d_steps):
            reals, labels = batch(data, seed, state.nimg + k * t.batch_size, t.batch_size, conditional)
            for m in turns("d", d, opt_d):
                x, y = to_device(reals, labels, slice(m * size, (m + 1) * size), device)
                z, y_fake, draws = fake_inputs(f"d{k}.{m}", size)
                y_fake = y if gan.paired else y_fake
                with torch.no_grad():
                    fakes = made(z, y_fake, draws)
                if hooks.at_images:
                    x.requires_grad_(True)
                    fakes.images.requires_grad_(True)
                with autocast():
                    real = hooks.look(d, see(x, "real", draws), y, "real")
                    fake = hooks.look(d, see(fakes.images, "fake", draws), y_fake, "fake")
                loss = gan.d(real.d, fake.d)
                stats.add("loss/d", loss)
                stats.add("scores/real", real.d)
                stats.add("scores/fake", fake.d)
                loss = plus(loss, hooks.head_terms(real, fake))
                sample = torch.no_grad()(partial(made, draws=draws))
                again, number = partial(see, draws=draws), state.nimg // t.batch_size + k
                now = DStep(
                    x, y, z, fakes, y_fake, real.d, fake.d, score_d, sample, draws, state.nimg, again, number
                )  # fmt: skip
                loss = plus(loss, hooks.d_terms(now, state.memory))
                scale_d.scale(loss / parts).backward()
            scale_d.step(opt_d)
            scale_d.update()

        # Lazy R1 (StyleGAN2, appendix B): its gradient every r1_interval steps, times the interval.
        step = state.nimg // shown
        if t.r1_gamma and t.r1_interval and step % t.r1_interval == 0:
            for m in turns("r1", d, opt_d):
                x, y = to_device(reals, labels, slice(m * size, (m + 1) * size), device)
                x.requires_grad_(True)
                seen = see(x, "real", Streams(seed, f"r1.{m}", state.nimg, device))
                penalty = losses.r1_penalty(x, hooks.look(d, seen, y).d).mean()
                (penalty * (schedules.at(t.r1_gamma, state.nimg) / 2 * t.r1_interval / parts)).backward()
                stats.add("loss/r1", penalty)
            opt_d.step()

        # G: raise the scores of fakes, and whatever the arm's variants ask besides.
        d.requires_grad_(False)
        tick = crosses(state.nimg, state.nimg + shown, t.tick_kimg) or state.nimg + shown >= total
        if gan.paired:
            reals, labels = batch(data, seed, state.nimg + shown, t.batch_size, conditional)
        for m in turns("g", g, opt_g):
            z, y_fake, draws = fake_inputs(f"g.{m}", size)
            partners = None
            if gan.paired:
                x, y_fake = to_device(reals, labels, slice(m * size, (m + 1) * size), device)
                with torch.no_grad(), autocast():
                    partners = hooks.look(d, see(x, "real", draws), y_fake).g
            fakes = made(z, y_fake, draws)
            with autocast():
                fake = hooks.look(d, see(fakes.images, "fake", draws), y_fake, taps=hooks.taps)
            loss = gan.g(fake.g, partners)
            stats.add("loss/g", loss)
            sample, feats = partial(made, draws=draws), fake.feats
            at = GStep(fakes, y_fake, z, fake.g, feats, loss, partners, score_g, sample, draws, state.nimg, step, tick)
            loss = plus(loss, hooks.g_terms(at, state.memory))
            scale_g.scale(loss / parts).backward()
        scale_g.step(opt_g)
        scale_g.update()

        # Lazy path length regularisation (StyleGAN2, section 3.2).
        if t.pl_weight and t.pl_interval and step % t.pl_interval == 0:
            for m in turns("pl", g, opt_g):
                z, y_fake, draws = fake_inputs(f"pl.{m}", max(1, size // t.pl_batch_shrink))
                fakes = g(z, y_fake, draws=draws, mixing=t.style_mixing)
                noise = torch.randn(fakes.images.shape, generator=draws("pl_noise"), device=device)
                lengths = losses.path_lengths(fakes.images, fakes.ws, noise)
                for source, others in enumerate(gathered(lengths.detach().mean())):
                    own = source == rank
                    pl_mean = losses.moved(state.pl_mean, lengths.mean() if own else others, t.pl_decay)
                    if own:
                        penalty = (lengths - pl_mean).square().mean()
                    state.pl_mean.copy_(pl_mean.detach())
                (penalty * (t.pl_weight * t.pl_interval / parts)).backward()
                stats.add("loss/path_length", penalty)
            opt_g.step()

        joined = state.stats.join(stats)
        for name, value in hooks.wholes(joined):
            state.stats.add(name, value)
        state.nimg += shown
        hooks.learn(state.memory, joined, shown, state.nimg)
        if state.g_ema is not None:
            assert t.ema_kimg is not None
            half_life = schedules.at(t.ema_kimg, state.nimg - shown)
            losses.ema_update(state.g_ema, g, losses.ema_beta(shown, state.nimg - shown, half_life, t.ema_rampup))
    return True
