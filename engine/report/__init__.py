"""What a run has found, for people who were not there: one page and a model card, made from the
files of the workspace and from what the registry has recorded.

Nothing here is measured anew or decided; what is not recorded is said to be so. A change makes no
stage stale. May import everything below the stages.
"""
