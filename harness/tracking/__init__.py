"""MLflow's copy of the results.

mirror.py  what is sent, once; the only mlflow import
finals.py  what is told of a result
sink.py    the thread that feeds it
views.py   the views that open first
server.py  its own pages on this machine
gate.py    the key to them
"""
