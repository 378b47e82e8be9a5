"""The pictures of a run: each a function from plain data to a matplotlib `Figure`, and `save` to write it as a PNG.

Importing this module imports matplotlib: import it where a picture is drawn.
"""

from resnetlab.plots.calibration import confidence_histogram, reliability
from resnetlab.plots.classes import class_bars, confused_pairs
from resnetlab.plots.confusion import confusion_matrix
from resnetlab.plots.curves import curves
from resnetlab.plots.images import mistakes, samples
from resnetlab.plots.network import embedding_map, filters, grad_cams
from resnetlab.plots.style import save

__all__ = [
    "class_bars",
    "confidence_histogram",
    "confused_pairs",
    "confusion_matrix",
    "curves",
    "embedding_map",
    "filters",
    "grad_cams",
    "mistakes",
    "reliability",
    "samples",
    "save",
]
