"""From simulated to real: a quantized model as one explicit program, and that program in the runtimes that execute it.

``build_program`` makes the program, ``write_qdq`` its ONNX file, and a class for each runtime runs it.
"""

from __future__ import annotations

from torchpare.runtimes.program import FloatPlace, QuantizedProgram, Site, build_program

__all__ = ["FloatPlace", "QuantizedProgram", "Site", "build_program"]
