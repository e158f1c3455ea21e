"""Datasets: uint8 images with or without labels, identified by their content.

cifar10.py                CIFAR-10, from the genuine archive
fashion_mnist.py          Fashion-MNIST, from its four IDX files
stacked_fashion_mnist.py  three of its images as red, green and blue: 1,000 modes, made when asked for
image_zip.py              StyleGAN's format: a ZIP or a folder
synthetic.py              drawn shapes, made when asked for

A dataset is one module in this package with

    Options                                  frozen dataclass, typed fields
    has_test(options) -> bool                whether split "test" exists; opens no file
    identity(options) -> str | None          what its files hold, by content; None where they are not here. Downloads
                                             nothing
    lie_at(options) -> tuple[Path, ...]      optional: the files and folders that `load` reads, and fetches where one is
                                             missing; without it the options that are paths
    EPOCH                                    raised when the same files and options give other images than before
    PART                                     optional: names of the options by which training sees a part of the
                                             split; `load` then says of what (`part_of`, `held_out` of the ImageSet)
    load(options, split="train") -> ImageSet (`harness.data.imageset`) UserError on anything bad

Files beginning with "_" are what datasets share.
"""
