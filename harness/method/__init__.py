"""The method's mathematics, and what a variant may do with it.

hooks.py      what a variant may do in the training loop
generator.py  a backbone's G with what a variant adds
heatmaps.py   random multi-level heatmaps
attention.py  GradCAM and L_align
gradients.py  how strong a term is beside the GAN loss, and a weight that bounds it
losses.py     GAN losses and regularisers
augment.py    differentiable image transforms: what DiffAugment and ADA are made of
schedules.py  numbers that move while a trial trains
"""
