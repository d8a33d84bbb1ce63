"""What is worth labelling or relabelling next, as tasks for annotation tools.

Lives here: which labelled images to look at again (`relabel.py`), which new ones to label
(`choice.py`), both asked with a model (`collect.py`), the files of CVAT and Label Studio
(`files.py`). Reading them back is
`engine.datasets.formats`.
"""
