"""One verb a file: what dvc.yaml calls and the Prefect tasks call in process.

A stage takes parameters and paths and leaves files and a JSON summary; order, retries and
schedules are `flows`. What belongs around every stage (environment, lock, tracking) is `runner`.
May import every room of `engine` but `cli`, `hpo` and `yolo`.
"""
