"""Two models measured now, on the same images with the same settings: the evidence of every
decision about them.

Lives here: what can be compared (`models.py`), measuring with a cache (`measure.py`), the images
that must not count (`left_out.py`), the evidence for the gates (`evidence.py`), tables and text of
it (`text.py`). Does not: rules (`engine.gates`), aliases and history (`engine.registry`). Calls
`engine.detect`, `engine.registry` and rooms below them.
"""
