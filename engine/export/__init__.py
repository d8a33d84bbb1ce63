"""Export of trained detectors: one function per format in a table, each file checked against
PyTorch before it counts.
"""

from engine.export.exporter import FORMATS, Exporter, ExportReport, export

__all__ = ["FORMATS", "ExportReport", "Exporter", "export"]
