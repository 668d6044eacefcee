"""What attention returns is rounded before its heads are brought together: the same numbers."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.runtimes import ModelSpeedupOpenVINO, verify
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.openvino_attention import with_early_roundings
from torchpare.runtimes.verify import snr

pytest.importorskip("openvino")


class Attends(nn.Module):
    """Attention between two linear layers; whoever asks gets what the second one reads."""

    def __init__(self, *, shows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)
        self.shows = shows

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x).view(x.shape[0], 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        together = mixed.reshape(x.shape[0], 6, 16)
        return (self.out(together), mixed) if self.shows else self.out(together)


def engine(**options: bool) -> tuple[ModelSpeedupOpenVINO, Tensor]:
    batches = list(torch.randn(3, 2, 6, 16, generator=torch.Generator().manual_seed(0)))
    made = ModelSpeedupOpenVINO(Attends(**options).eval(), dummy_input=batches[0], calib_data_loader=batches)
    made.compress()
    return made, batches[0]


def test_the_rounding_comes_before_the_moves_and_the_file_computes_the_same(tmp_path):
    made, x = engine()
    assert made.file is not None
    model = onnx.load(str(made.file))
    after = with_early_roundings(onnx.load(str(made.file)))
    onnx.checker.check_model(after)
    makers = {name: node for node in after.graph.node for name in node.output}
    rounded = [node for node in after.graph.node if node.op_type == "QuantizeLinear"]
    assert sum(makers[node.input[0]].op_type == "MatMul" for node in rounded if node.input[0] in makers) == 1
    kinds = [sorted(node.op_type for node in each.graph.node) for each in (model, after)]
    assert kinds[0] == kinds[1]
    onnx.save(after, str(tmp_path / "after.onnx"))
    before, now = (session_runner(onnx_session(path))([x])[0] for path in (made.file, tmp_path / "after.onnx"))
    torch.testing.assert_close(before, now, rtol=1e-6, atol=1e-7)


def test_what_others_read_too_stays_where_it_is():
    made, _ = engine(shows=True)
    assert with_early_roundings(onnx.load(str(made.file))) == onnx.load(str(made.file))


def test_openvino_computes_what_the_program_says():
    made, x = engine()
    assert snr(made.made()(x), made.inference(x)[0]) > 60
    assert verify(made, x).ok
