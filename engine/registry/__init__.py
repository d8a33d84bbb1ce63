"""Registered models: versions and aliases in MLflow, the gates that decide, the served model.

A detector comes as a `Candidate`, leaves as a `Registration`; unlike tracking it waits for the
server and fails where there is none. Training and export are not its business.
May import `engine.tracking`, `engine.project` and below.
"""
