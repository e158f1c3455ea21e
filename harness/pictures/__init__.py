"""Pictures.

figures.py   pure drawing
of_model.py  what a trained model does
gallery.py   those that a trial keeps
"""
