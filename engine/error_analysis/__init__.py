"""Where a detector fails: what kinds of errors it makes and what each costs, in which images and
slices of the data, and what another model gains or loses.

Lives here: types of errors (`error_types.py`), properties of images (`properties.py`), slices and
their test (`slices.py`), single images and probable label errors (`images.py`), two models
(`pair.py`), images of them (`pictures.py`), the report of a validation (`report.py`). Starts from
`Sample`s, that is truth and detections of each image; runs no model.
"""
