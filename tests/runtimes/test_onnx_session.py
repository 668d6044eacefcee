"""What ONNX Runtime is told when it loads a file."""

from __future__ import annotations

import onnx
import torch
from torch import nn

from torchpare.files.onnx import export_onnx
from torchpare.runtimes.onnxruntime import onnx_session, session_runner


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x):
        return self.norm(x + self.linear(x))


def test_a_sum_before_a_layer_norm_keeps_the_faster_kernels(tmp_path):
    model, x = Residual().eval(), torch.randn(2, 5, 32)
    export_onnx(model, tmp_path / "model.onnx", x)
    session = onnx_session(tmp_path / "model.onnx", optimized=tmp_path / "optimized.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "LayerNormalization" in kinds
    assert "SkipLayerNormalization" not in kinds
    with torch.no_grad():
        torch.testing.assert_close(session_runner(session)([x])[0], model(x), rtol=1e-5, atol=1e-5)
