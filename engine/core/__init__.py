"""The training loop of anything: epochs, optimizer, checkpoints, exact resume, events, ranks.

Knows no boxes and no images: what is trained comes from a subclass (`engine.detect`, or a text
classifier in the tests). No MLflow, Prefect or DVC either; they attach themselves by callbacks.
May import the vocabulary: `engine.config`, `errors`, `files`, `types`.
"""
