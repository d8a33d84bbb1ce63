"""What sections of settings are made of: a frozen base that refuses unknown keys, and YAML read
with its lines.

The sections themselves live in `engine.config`, those of a gate in the gate's own file. Calls
`engine.errors` and `engine.files` only.
"""
