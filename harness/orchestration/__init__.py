"""Many trials: which there are to run, where, when, and what becomes of each.

matrix.py     one experiment from start to report
recognise.py  which folder of results holds which trial: by its images and by what it records
possible.py   cells that can't be, marked where the experiment asks for it
changed.py    trials that other code made: refused, accepted, trained or scored again
launch.py     trials onto processes: this one, a Ray of our own, a cluster
schedule.py   which trial starts when, and what becomes of one that ends badly; pure
attempt.py    one attempt at a trial, and its end; around it the scratch folder of a URL
shared.py     the folder or URL of results: whether driver and workers see the same one
pool.py       trials as Ray actors
cluster.py    Ray reached, greeted and left; the only ray import
fit.py        how much of a GPU a trial takes
speeds.py     how fast a shape of trial trains
plan.py       what an experiment will cost: hours, disk, end
status.py     how far an experiment's trials are
finished.py   what a finished matrix said, for the same command again
"""
