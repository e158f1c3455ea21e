"""One trial, end to end.

run.py          resume, train, score, result.json
preflight.py    whatever would fail only after training has begun
environment.py  commit, machine, versions
live.py         state.json: what the trial is doing
upkeep.py       between steps: ticks, sample grids, distances, checkpoints
scoring.py      its last and its best snapshot scored
standalone.py   a trained model scored by itself
"""
