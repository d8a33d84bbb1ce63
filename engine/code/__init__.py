"""What a module's source does, as a digest: `syntax` reads one file, `closure` follows imports.

What does not live here: which modules count for which stage (engine.stages.code). Calls only the
standard library and nothing of the engine, so it reads sources without importing them.
"""
