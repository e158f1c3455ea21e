"""What an experiment is.

spec.py    an experiment, its tables and trials
ids.py     a trial's id: what differs from the defaults, EPOCHs, images
schema.py  strict, typed parsing
parse.py   plain data to trials and back
loader.py  YAML read safely; the only yaml import
words.py   words of YAML 1.1 as they stand in the file
files.py   experiment files: presets, settings, arms, includes
matrix.py  experiment to unique trials
"""
