"""One pass over the images, every metric from it.

evidence.py  what a metric asks for and is given; its records
measures.py  what it is made of, by digests
evaluate.py  the pass
fakes.py     its fakes: made, rounded, seen
shares.py    the same among processes with a GPU each
statistics.py  an averaged generator's own
features.py  feature networks; the only torch_fidelity import
classifier.py  one that is trained here
collect.py   images through one of them, to moments and features
reals.py     what they see in the reals, once a machine
scores.py    DI and its companions
frechet.py   moments and the Fréchet distance
probes.py    where D looks, what heatmaps move
readings.py  the readings of L_align side by side
"""
