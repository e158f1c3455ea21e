"""Training.

train.py    THE loop, top to bottom
ranks.py    several processes that train one trial
trained.py  a trained model read back
model.py    what that is
"""
