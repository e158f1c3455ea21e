"""What a variant may do in the training loop (`harness.training.train`): one class of hooks a variant.

Shapes: N images of one microbatch [N, C, R, R], logits [N], labels int64 [N] or None. Values of a term are
means over the microbatch; nothing here waits for the device.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from backbones import Discriminator, Last
from harness.errors import UserError
from harness.method.generator import Fakes
from harness.method.losses import LogitLoss
from harness.rng import Streams

Memory = dict[str, Tensor]
"""A variant's own tensors, on the device; in every checkpoint as memory/<variant>/<key>."""

Kind = Literal["real", "fake"]

Score = Callable[[Tensor, Tensor | None], Tensor]
"""(images, labels) -> D's logits [N] of these very images, without any `see`."""

Sample = Callable[[Tensor, Tensor | None], Fakes]
"""(z [N, z_dim], labels) -> G at other latents, with the noise and heatmaps of the step's own fakes.
In D's step without gradient, in G's with."""


class Term(NamedTuple):
    """What a variant adds to a loss. `value`: a scalar in the graph. `parts`: scalars by name for the journal, in the
    order of their making, the same names in every process; see `curve` for where they are filed. What is only measured
    now and then is a part of those steps alone. A value that is not finite is handed on as it is: the next tick names
    the first of them."""

    value: Tensor
    parts: dict[str, Tensor]


class Head(NamedTuple):
    """Logits [N] that replace those of D's last layer: `d` in D's loss, `g` in G's. Both have the *values* of D's own
    (whoever scores D later asks D alone), only gradients differ. `term`: a scalar for D's loss, or None."""

    d: Tensor
    g: Tensor
    term: Tensor | None


See = Callable[[Tensor, Kind], Tensor]
"""Other images as D would have seen them in the place of the step's own of that kind: every variant's `see`, with the
same draws."""


class DStep(NamedTuple):
    """One microbatch of a step of D. `reals` and `fakes` are as before any `see`, the logits as after it."""

    reals: Tensor
    labels: Tensor | None
    z: Tensor
    fakes: Fakes  # without gradient to G
    fake_labels: Tensor | None
    real_logits: Tensor
    fake_logits: Tensor
    score: Score
    sample: Sample
    draws: Streams  # the variant's own
    nimg: int  # real images shown to D before this step
    see: See
    number: int  # steps of D before this one


class GStep(NamedTuple):
    """One microbatch of a step of G. D's parameters take no gradient here."""

    fakes: Fakes
    labels: Tensor | None
    z: Tensor
    logits: Tensor
    feats: dict[str, Tensor]  # {tap: [N, C, H, W]} for the variants' `taps`, from the pass that made the logits
    gan: Tensor  # this microbatch's GAN loss, a scalar in the graph
    real_logits: Tensor | None  # of the partners, where the loss is paired
    score: Score
    sample: Sample
    draws: Streams
    nimg: int
    past: int = 0  # steps before this one
    tick: bool = False  # a report follows this step: the time to measure what is too dear for every step


class Adversarial(NamedTuple):
    """The GAN loss of a microbatch: d(real logits, fake logits) and g(fake logits, real logits), scalars.

    `paired`: reals and fakes of equal index are partners. A fake then has its partner's label, and G's step meets the
    reals of the next step (their logits without gradient); without it `g` is given None.
    """

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor, Tensor | None], Tensor]
    paired: bool = False


class Hooks:
    """Each does nothing unless overridden, and what is not overridden is not called.

    `memory` is read in every hook and changed by `learn` alone. `draws(name)` are streams of the variant's own, other
    ones in every pass: what a variant draws shifts nothing that another arm sees.
    """

    taps: tuple[str, ...] = ()  # features of D that `g_term` reads
    adversarial: Adversarial | None = None  # in the place of `train.loss`; at most one variant of an arm has it
    at_images: bool = False  # `d_term` differentiates logits by `reals` or `fakes.images`, as R1 and R2 do
    each_alone: bool = False  # needs a D whose logit is of its image alone: one with batch norm is refused

    def memory(self) -> Memory:
        """What is remembered before the first step."""
        return {}

    def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: Memory) -> Tensor:
        """What D sees of reals and of fakes, in its own step, in R1 and in G's; differentiable, the same shape."""
        return images

    def head(self, h: Tensor, last: Last, labels: Tensor | None, kind: Kind | None) -> Head:
        """In the place of D's last layer, of which the logits are <last.weight, h> + last.bias: h [N, F], float32.
        `kind` tells whose features they are; None: no `term` is asked for. At most one variant of an arm has it."""
        raise NotImplementedError

    def d_term(self, step: DStep, memory: Memory) -> Term | None:
        """Added to D's loss."""
        return None

    def g_term(self, step: GStep, memory: Memory) -> Term | None:
        """Added to G's loss."""
        return None

    def whole(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """More parts, {name: scalar}, of a step as a whole: functions of those of all its microbatches, which are as
        in `learn`. For what is no mean over microbatches."""
        return {}

    def learn(
        self, memory: Memory, real: Tensor, fake: Tensor, parts: dict[str, Tensor], shown: int, nimg: int
    ) -> Memory:
        """What is remembered after a step: a function of the logits that D gave in its steps (each [shown]) and of the
        variant's parts ({name: [microbatches]}), of all processes in one order, so that their number doesn't matter.
        `shown`: real images of this step; `nimg`: of all steps. Without gradient."""
        return memory


_LOOP = ("d", "g", "r1", "path_length")  # loss/<these> are the loop's own


def curve(variant: str, part: str) -> str:
    """Where a part of a term is filed: loss/<variant>/<part>.

    A part that bears its variant's name stands for itself: `align`, `align/4` and `align_empty/4` of align are the
    curves loss/align, loss/align/4 and loss/align_empty/4. `raw/x` is no curve: it is there for `whole` and `learn`.
    """
    if part.startswith("raw/"):
        return f"raw/{variant}/{part.removeprefix('raw/')}"
    own = part == variant or part.startswith((f"{variant}/", f"{variant}_"))
    return f"loss/{part}" if own and part not in _LOOP else f"loss/{variant}/{part}"


def per_logit(loss: LogitLoss) -> Adversarial:
    """The mean of a loss that acts on each logit."""
    return Adversarial(
        d=lambda real, fake: loss.d_real(real).mean() + loss.d_fake(fake).mean(), g=lambda fake, _: loss.g(fake).mean()
    )


class Seen(NamedTuple):
    """One pass of D: logits [N] for D's loss and for G's, the asked features, the head's term."""

    d: Tensor
    g: Tensor
    feats: dict[str, Tensor]
    term: Tensor | None


Filed = tuple[str, str, Term]  # a variant's name, where its term stands, the term


class ArmHooks:
    """The hooks of an arm's variants as one, in their order. UserError where two of them want the same place."""

    def __init__(self, variants: Mapping[str, Hooks]) -> None:
        self.variants = dict(variants)
        self.taps = tuple(dict.fromkeys(tap for hooks in variants.values() for tap in hooks.taps))
        self.at_images = any(hooks.at_images for hooks in variants.values())
        self._see, self._d, self._g = map(self._having, ("see", "d_term", "g_term"))
        self._whole, self._learn = map(self._having, ("whole", "learn"))
        self.head = self._one("head", self._having("head"))
        chosen = self._one("adversarial", {n: h for n, h in variants.items() if h.adversarial is not None})
        self.adversarial = self.variants[chosen].adversarial if chosen else None
        self._filed: dict[str, dict[str, str]] = {name: {} for name in variants}
        self._places: dict[str, tuple[str, str]] = {}

    def _having(self, hook: str) -> dict[str, Hooks]:
        return {n: h for n, h in self.variants.items() if getattr(type(h), hook) is not getattr(Hooks, hook)}

    @staticmethod
    def _one(place: str, bringing: dict[str, Hooks]) -> str | None:
        if len(bringing) > 1:
            what = {"head": "D's last layer", "adversarial": "the GAN loss"}[place]
            raise UserError(f"variants: {', '.join(bringing)}: more than one replaces {what}; keep one of them")
        return next(iter(bringing), None)

    def remember(self, memory: dict[str, Memory], device: torch.device) -> None:
        """Give every variant that has none yet the memory from before the first step."""
        for name, hooks in self.variants.items():
            if name not in memory and (fresh := hooks.memory()):
                memory[name] = {key: value.to(device) for key, value in fresh.items()}

    def see(self, images: Tensor, draws: Streams, kind: Kind, nimg: int, memory: dict[str, Memory]) -> Tensor:
        for name, hooks in self._see.items():
            own = replace(draws, scope=f"{draws.scope}/{name}/{kind}")
            images = hooks.see(images, own, kind, nimg, memory.get(name, {}))
        return images

    def look(
        self,
        d: Discriminator,
        images: Tensor,
        labels: Tensor | None,
        kind: Kind | None = None,
        taps: tuple[str, ...] = (),
    ) -> Seen:
        """D's pass over `images`, through the variant's head where there is one."""
        if self.head is None:
            logits, feats = d(images, labels, taps=taps)
            return Seen(logits, logits, feats, None)
        h, feats = d.penultimate(images, taps=taps)
        with torch.autocast(images.device.type, enabled=False):
            head = self.variants[self.head].head(h.float(), d.last_layer(labels), labels, kind)
        return Seen(head.d, head.g, feats, head.term)

    def head_terms(self, *seen: Seen) -> Iterator[Filed]:
        if self.head is not None and (found := [s.term for s in seen if s.term is not None]):
            value = torch.stack(found).sum()
            yield self.head, "head", Term(value, {"head": value})

    def d_terms(self, step: DStep, memory: dict[str, Memory]) -> Iterator[Filed]:
        for name, hooks in self._d.items():
            own = step._replace(draws=replace(step.draws, scope=f"{step.draws.scope}/{name}"))
            if (term := hooks.d_term(own, memory.get(name, {}))) is not None:
                yield name, "d_term", term

    def g_terms(self, step: GStep, memory: dict[str, Memory]) -> Iterator[Filed]:
        for name, hooks in self._g.items():
            own = step._replace(draws=replace(step.draws, scope=f"{step.draws.scope}/{name}"))
            if (term := hooks.g_term(own, memory.get(name, {}))) is not None:
                yield name, "g_term", term

    def file(self, name: str, place: str, term: Term) -> Iterable[tuple[str, Tensor]]:
        """The parts of the term that variant `name` has in `place`, under the names of their curves. UserError where
        two places would share one."""
        for part, value in term.parts.items():
            yield self._at(name, place, part), value

    def _at(self, name: str, place: str, part: str) -> str:
        at = self._filed[name].setdefault(part, curve(name, part))
        if (first := self._places.setdefault(at, (name, place))) != (name, place):
            raise UserError(
                f"variants.{name}: part {part!r} of its {place}: {at} is that of {first[0]}'s {first[1]} already; "
                "give it another name"
            )
        return at

    @torch.no_grad()
    def wholes(self, joined: Mapping[str, list[Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """What the variants make of a step as a whole, of which `joined` has the values of all processes by curve."""
        for name, hooks in self._whole.items():
            for part, value in hooks.whole(self._parts(name, joined)).items():
                yield self._at(name, "whole", part), value

    def _parts(self, name: str, joined: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
        return {part: torch.stack(joined[at]) for part, at in self._filed[name].items() if at in joined}

    @torch.no_grad()
    def learn(self, memory: dict[str, Memory], joined: Mapping[str, list[Tensor]], shown: int, nimg: int) -> None:
        """Let each variant remember a step, of which `joined` has the values of all processes by curve."""
        if not self._learn:
            return
        real, fake = torch.cat(joined["scores/real"]), torch.cat(joined["scores/fake"])
        for name, hooks in self._learn.items():
            memory[name] = hooks.learn(memory.get(name, {}), real, fake, self._parts(name, joined), shown, nimg)
