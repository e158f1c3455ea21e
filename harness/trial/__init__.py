"""One trial, end to end.

run.py      resume, train, score, result.json
upkeep.py   between steps: ticks, sample grids, distances, checkpoints
scoring.py  its last and its best snapshot scored
"""
