"""The method's mathematics.

generator.py  a backbone's G with what a variant adds
heatmaps.py   random multi-level heatmaps
attention.py  GradCAM and L_align
losses.py     GAN losses and regularisers
"""
