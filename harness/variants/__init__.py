"""Variants: one file per way of changing a baseline GAN. An arm without variants is the baseline.

sel.py      SEL: heatmaps modulate G's features
flatten.py  the heatmap as a vector joined to the latent
align.py    L_align: G is trained to be attended to by D where its heatmap says
diffaugment.py  DiffAugment: D sees everything through random transforms
ada.py      ADA: so it does, with a probability that follows how far D overfits
relativistic.py  D judges pairs of a real and a fake, with R1 and R2
lecam.py    D's logits stay near the averages of the other side
san.py      D's last layer as a direction on the sphere
consistency.py   CR, bCR, zCR: D says the same of an image moved a little

A variant is one module in this package with

    Options                              frozen dataclass, typed fields; a number that may move while it trains is
                                         `harness.method.schedules.Scheduled`, read with `at(value, nimg)`

and what it needs of

    encoder(sites, resolution, options)  -> harness.method.generator.Encoder: acts inside G
    hooks(options, resolution)           -> harness.method.hooks.Hooks: acts in the loop (losses, what D sees, its
                                         last layer, a memory); the docstrings there are the contract
    PROFILES                             {"paper": {}, "release": {...}, ...}: option values laid under the
                                         user's, where `Options` has a field `profile`
    LEVELS                               option values that leave the levels it acts at to the backbone (None in their
                                         places): laid under the user's where that has levels of its own
    uses(options) -> tuple[str, ...]     pretrained networks that it trains with, named as in metrics' records
                                         ("efficientnet_lite0", "inception", ...): a report says which metrics
                                         measure with the same
    EPOCH                                raised when the same options train to other numbers than before
    PROVIDES, REQUIRES                   what it adds to the fakes ("heatmaps"), what it needs there
    CLASHES                              what it refuses: another variant's name, what another provides, or a key of
                                         the trial that must be off, like "train.r1_gamma" for a variant with an R1
                                         of its own
    check(options, others)               ValueError("key: rule") where it doesn't fit `others`, {name: options} of the
                                         arm's other variants
    told(options, curves)                -> text or None: what one must know of an arm whose last tick had these curves,
                                         {"loss/align": 0.3, ...}; said once in the log, and on the report's page

`hooks` and `encoder` raise UserError where the networks or the resolution don't fit. A variant owns no parameter that
D trains; what it remembers is a memory. `make contract` (tests/contract) holds every file here to this, everywhere.
"""
