"""Findings and differences for people and programs: text, plain values, a page with images.

Nothing here decides what is in a dataset; a change makes no stage stale.
May import `engine.datasets` and `engine.data`.
"""
