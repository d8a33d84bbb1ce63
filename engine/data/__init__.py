"""From a prepared dataset to batches: manifests, image decoding, cache, augmentation, loader.

Reads `data/prepared` alone; how such a folder comes about is `engine.datasets`, and nothing here
imports it, so a change of a reader or a check cannot alter what training computes.
May import the vocabulary: `engine.boxes`, `config`, `errors`, `files`, `types`.
"""
