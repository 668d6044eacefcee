"""Hand-written nets with a state: LSTM, GRU, plain recurrence, their cells in loops, a convolutional LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, Built, Drawn, normal

__all__ = ["RECURRENT"]


class LSTMClassifier(nn.Module):
    """The last output of an LSTM, classified."""

    def __init__(self, *, bidirectional: bool, layers: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 10)
        self.lstm = nn.LSTM(10, 12, num_layers=layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(24 if bidirectional else 12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids to (B, 5) logits."""
        outputs, _ = self.lstm(self.embed(tokens))
        return self.head(outputs[:, -1])


class StackedGRU(nn.Module):
    """Two layers whose state is given and returned, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.gru = nn.GRU(8, 12, num_layers=2)
        self.head = nn.Linear(12, 5)

    def forward(self, series: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(T, B, 6) and (2, B, 12) to (T, B, 5) and the new state."""
        outputs, state = self.gru(self.enter(series).relu(), state)
        return self.head(outputs), state


class ProjectedLSTM(nn.Module):
    """An LSTM whose output is narrower than its cell, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv1d(3, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, 14, batch_first=True, proj_size=6)
        self.after = nn.Conv1d(6, 5, 1)

    def forward(self, series: Tensor) -> Tensor:
        """(B, 3, T) to (B, 5, T)."""
        outputs, _ = self.lstm(self.before(series).relu().transpose(1, 2))
        return self.after(outputs.transpose(1, 2))


class PlainRNN(nn.Module):
    """Elman's network, of which the final state is classified."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.rnn = nn.RNN(6, 12, num_layers=2, nonlinearity=kind, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, 6) to (B, 5)."""
        _, state = self.rnn(series)
        return self.head(state[-1])


class LSTMCellLoop(nn.Module):
    """A cell called once a step; the states of all steps are stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 12
        self.cell = nn.LSTMCell(6, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, 6) to (B, T, 5)."""
        hidden = series.new_zeros(series.size(0), self.hidden_size)
        cell = torch.zeros_like(hidden)
        steps = []
        for step in series.unbind(1):
            hidden, cell = self.cell(step, (hidden, cell))
            steps.append(hidden)
        return self.head(torch.stack(steps, dim=1))


class GRUCellDecoder(nn.Module):
    """An encoder's state unrolled: each step reads what the last one wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.GRU(6, 12, batch_first=True)
        self.cell = nn.GRUCell(5, 12)
        self.write = nn.Linear(12, 5)

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, 6) to (B, 3, 5)."""
        _, state = self.encode(series)
        state = state.squeeze(0)
        written = self.write(state)
        steps = [written]
        for _ in range(2):
            state = self.cell(written, state)
            written = self.write(state)
            steps.append(written)
        return torch.stack(steps, 1)


class ConvLSTMCell(nn.Module):
    """Gates by one convolution over input and state together."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, 3, padding=1)

    def forward(self, image: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """One step: the new hidden state and cell."""
        hidden, cell = state
        gates = self.gates(torch.cat([image, hidden], dim=1))
        enter, forget, leave, new = gates.split(self.hidden, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class ConvLSTM(nn.Module):
    """A convolutional LSTM over a video, and a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.cell = ConvLSTMCell(6, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, 3, H, W) to (B, 2, H, W)."""
        batch, _, _, height, width = video.shape
        state = (
            video.new_zeros(batch, self.cell.hidden, height, width),
            video.new_zeros(batch, self.cell.hidden, height, width),
        )
        for frame in video.unbind(1):
            state = self.cell(self.stem(frame).relu(), state)
        return self.head(state[0])


class PackedLSTM(nn.Module):
    """Padded sequences packed, run and padded again: each sample is read to its own length."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, series: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 6) and (B,) to (B, T, 5)."""
        packed = nn.utils.rnn.pack_padded_sequence(self.enter(series).relu(), lengths, batch_first=True)
        outputs, _ = self.lstm(packed)
        return self.head(nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)[0])


class LinearRecurrence(nn.Module):
    """A diagonal state that decays, written with in-place slices of a tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 12)
        self.decay = nn.Parameter(torch.rand(12))
        self.leave = nn.Linear(12, 5)

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, 6) to (B, T, 5)."""
        drive = self.enter(series)
        states = torch.zeros_like(drive)
        state = torch.zeros_like(drive[:, 0])
        for step in range(series.shape[1]):
            state = state * self.decay.sigmoid() + drive[:, step]
            states[:, step] = state
        return self.leave(states)


def _lstm(generator: Drawn, *, bidirectional: bool, layers: int = 1) -> Built:
    tokens = torch.randint(0, 23, (2, 7), generator=generator)
    return LSTMClassifier(bidirectional=bidirectional, layers=layers), tokens


RECURRENT: dict[str, Builder] = {
    "lstm": lambda g: _lstm(g, bidirectional=False),
    "lstm-bidirectional": lambda g: _lstm(g, bidirectional=True),
    "lstm-bidirectional-stacked": lambda g: _lstm(g, bidirectional=True, layers=2),
    "gru-stacked-state": lambda g: (StackedGRU(), (normal(g, 7, 2, 6), normal(g, 2, 2, 12))),
    "lstm-projected": lambda g: (ProjectedLSTM(), normal(g, 2, 3, 9)),
    "rnn-tanh": lambda g: (PlainRNN("tanh"), normal(g, 2, 7, 6)),
    "rnn-relu": lambda g: (PlainRNN("relu"), normal(g, 2, 7, 6)),
    "lstm-cell": lambda g: (LSTMCellLoop(), normal(g, 2, 7, 6)),
    "gru-cell-decoder": lambda g: (GRUCellDecoder(), normal(g, 2, 7, 6)),
    "conv-lstm": lambda g: (ConvLSTM(), normal(g, 2, 3, 3, 8, 6)),
    "lstm-packed": lambda g: (PackedLSTM(), (normal(g, 2, 7, 6), torch.tensor([7, 5]))),
    "linear-recurrence": lambda g: (LinearRecurrence(), normal(g, 2, 7, 6)),
}
