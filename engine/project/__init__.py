"""The project as a place: its root, environment and `.env`, who works in it, which GPUs are taken.

Knows no stage, no DVC and no MLflow. May import `engine.core` for devices, and the vocabulary.
"""
