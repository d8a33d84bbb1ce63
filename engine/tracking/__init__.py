"""MLflow runs: what stages and trainings record, the journal it waits in, and the sender.

Everything is written to a local journal first and sent by a thread, so no outage ends a run and
nothing is lost. Versions and aliases of models are `engine.registry`; who made what is
`engine.lineage`. May import `engine.versioning`, `engine.project`, `engine.core` and below.
"""
