"""Audio models that ``ssamba-edge export --frontend waveform`` wrote, in ONNX Runtime.

>>> import ssamba_edge
>>> model = ssamba_edge.load("kws.onnx")
>>> model.run(waveform).top(1)
[('yes', 0.989)]

Installing the package also puts the program ``ssamba-edge`` on the path.
"""

from ._library import ops_library
from ._model import Model, ModelError, Result, SelfTest, load

__all__ = ["Model", "ModelError", "Result", "SelfTest", "load", "ops_library"]
