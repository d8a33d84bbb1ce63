"""The search for hyper-parameters: what is searched, the study that remembers, one trial, what came
out.

Optuna proposes values, stores the trials and ends the hopeless ones; a trial is an ordinary
training. Who runs the trials, here or on a cluster, is none of its business (`flows/sweep.py`).
Optuna is in the extra `cluster`.
"""
