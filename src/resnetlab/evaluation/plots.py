"""The pictures of a run: each a function from plain data to a matplotlib `Figure`, and `save` to write it as a PNG.

Importing this module imports matplotlib: import it where a picture is drawn.
"""

from resnetlab.evaluation.plots_confusion import confusion_matrix
from resnetlab.evaluation.plots_curves import curves
from resnetlab.evaluation.plots_images import mistakes, samples
from resnetlab.evaluation.plots_style import save

__all__ = ["confusion_matrix", "curves", "mistakes", "samples", "save"]
