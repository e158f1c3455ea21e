"""The method's mathematics, and what a variant may do with it.

hooks.py      what a variant may do in the training loop
generator.py  a backbone's G with what a variant adds
heatmaps.py   random multi-level heatmaps
attention.py  GradCAM and L_align
gradients.py  a term beside the GAN loss: their gradients, and a weight that bounds their ratio
losses.py     GAN losses and regularisers
"""
