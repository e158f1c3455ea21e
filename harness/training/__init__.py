"""Training.

train.py    THE loop, top to bottom
order.py    what moves once per forward pass, in the order of the microbatches
state.py    all that changes while a trial trains, and what a checkpoint keeps of it
arm.py      a trial's data, networks and hooks: what the loop is given
ranks.py    several processes that train one trial
trained.py  a trained model read back
model.py    what that is
"""
