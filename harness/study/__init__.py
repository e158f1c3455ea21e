"""Attention and spatial control of an experiment, measured.

report.py   every finished trial probed, as one table
readings.py the readings of L_align on each model, side by side
figures.py  its figures
"""
