"""The harness. A folder in the plural is a shelf, one plugin a file, found by its name; one in the singular is
machinery. Imports run downwards in this list only (`tests/test_architecture.py`):

orchestration/ study/               many trials; attention of an experiment, measured
trial/                              one trial, end to end
pictures/                           of trained models
training/ tracking/ weights/        the loop; MLflow's copy; published networks
metrics/                            SHELF
evaluation/ report/ datasets/       one pass, every metric; tables and page; SHELF
store/                              a trial's folder
data/ experiment/ variants/         images; what an experiment is; SHELF
method/                             mathematics
plugins.py outside.py               a plugin is one file, found by its name; folders of one's own
disk.py locks.py                    files that appear whole or not at all; what one process at a time holds
verbs.py                            a command line as a table
command.py                          the command that began it all, as it may be stored; how it ends
pickles.py                          what a pickle holds, read without executing anything
console.py streams.py               the terminal; output that never fails
errors.py rng.py                    how work ends early; random streams
proxies.py                          this machine is reached without the site's proxy
process.py                          the cores that it may use, the signals that end it, children that end with it
"""
