"""Export of trained detectors: a file in another format, compared with PyTorch before it counts.

The formats themselves are `engine.model_formats`, the networks `engine.models`; nothing here knows
stages, tracking or the registry. May import `engine.detect` and below.
"""

from engine.export.exporter import Exporter, ExportReport, export
from engine.model_formats.table import FORMATS

__all__ = ["FORMATS", "ExportReport", "Exporter", "export"]
