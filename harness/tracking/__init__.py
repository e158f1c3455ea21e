"""MLflow's copy of the results.

mirror.py  what is sent, once; the only mlflow import but for the making of a database
sqlite.py  the database in results: its URI, how it is made, whether this MLflow can use it
finals.py  what is told of a result
runs.py    what a trial's run is called and carries
sink.py    the thread that feeds it
views.py   the views that open first
server.py  its own pages on this machine
gate.py    the key to them
"""
