"""Metrics: features or D's scores in, named numbers with their protocol out.

disequilibrium.py         DI, its exact and calibrated companions
fid.py                    Fréchet distance on Inception's features
kid.py                    kernel distance on the same
inception_score.py        IS
precision_recall.py       improved precision and recall
fd_dinov2.py              Fréchet distance on DINOv2's features
fd_efficientnet_lite0.py  the same on EfficientNet-Lite0's, whose weights need no download
kd_efficientnet_lite0.py  kernel distance on these
fd_efficientnet_lite1.py  both once more on a second network of the kind: an opinion of its own
kd_efficientnet_lite1.py
fd_infinity.py            the Fréchet distance of infinitely many fakes, on any extractor
density_coverage.py       density and coverage, on any extractor
modes.py                  how many of the 1,000 modes of a stacked set are made

A metric is one module in this package with

    Options                                 frozen dataclass, typed fields
    needs(options, setting) -> Needs        what the one pass must gather; UserError if the data can't give it
    compute(evidence, options, setting) -> {name: record}       pure
    heading(name, protocol) -> Heading | None       optional: how a table presents such a record of its own

(types in `harness.evaluation.evidence`). Files beginning with "_" are what metrics share.
"""
