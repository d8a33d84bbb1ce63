"""Networks by family: how each is built, what it costs, what its output means, how it is exported.

What lives here knows no trainer, no files of a run and no images on disk. It may call the
vocabulary (`engine.errors`, `types`, `boxes`, `config`, `plugins`) and nothing else of the engine.
A new kind of network is one folder here and one line in `registry.py`; where the code of a library
is the network, the folder's package names it (`NETWORKS_OF`).
"""
