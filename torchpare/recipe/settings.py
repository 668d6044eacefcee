"""What each stage of a recipe may be told, and how a callable is named."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from torchpare.recipe.budget import Budget, read_budget

__all__ = [
    "BenchmarkStage",
    "Call",
    "Distillation",
    "ExportStage",
    "FinetuneStage",
    "Named",
    "Optimizer",
    "PruneStage",
    "QuantizeStage",
    "ShrinkStage",
    "Stage",
    "Strict",
    "StudyStage",
    "Training",
]

RuntimeName = Literal["onnxruntime", "openvino", "inductor", "executorch", "tensorrt"]
Format = Literal["safetensors", "torch", "onnx", "openvino", "inductor", "executorch", "tensorrt"]
Schedule = Literal["constant", "linear", "cosine", "one_cycle"]


class Strict(BaseModel):
    """What may be said, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _called(value: Any) -> Any:
    return {"callable": value} if isinstance(value, str) else value


class Call(Strict):
    """A callable and what it is called with; a bare ``package.module:callable`` is called without arguments."""

    callable: str = Field(pattern=r"^[^:\s]+:[^:\s]+$")
    """``package.module:callable``; modules are also looked for beside the recipe file and in the working directory."""
    args: list[Any] = []
    """Positional arguments."""
    kwargs: dict[str, Any] = {}
    """Arguments by name."""


Named = Annotated[Call, BeforeValidator(_called, json_schema_input_type=str | Call)]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Optimizer(BaseModel):
    """A class of torch.optim, or ``package.module:Class``, and its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    name: str = "Adam"
    """Such as SGD, AdamW, or ``package.module:Class``. All other keys are its arguments: lr, momentum, ..."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What its constructor is called with beside the parameters."""
        return dict(self.model_extra or {})


class Distillation(Strict):
    """What a student learns from its teacher while it is fine-tuned."""

    terms: list[dict[str, Any]] = Field(default=[{"soft_targets": {"temperature": 4.0}}], min_length=1)
    """Losses by name, with their arguments: soft_targets, hidden_states, attention_maps, ..."""
    task: float = Field(default=1.0, ge=0)
    """What the loss on the labels is multiplied by; 0 learns from the teacher alone."""
    teacher: Named | None = None
    """The dense model, if not given."""


class Training(Strict):
    """How a model is trained, by those stages that train."""

    optimizer: Annotated[Optimizer, BeforeValidator(_named, json_schema_input_type=str | Optimizer)] = Optimizer()
    """Such as ``{name: SGD, lr: 0.05, momentum: 0.9}``; Adam with its own defaults, if not given."""
    accumulate: int = Field(default=1, ge=1)
    """Minibatches whose gradients are averaged for one step."""
    clip_norm: float | None = Field(default=None, gt=0)
    """What the norm of all gradients is cut to."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 trains under autocast."""


class _Common(Strict):
    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    """What the stage is called in tables and folders; its kind, if not given."""
    budget: Annotated[
        list[Annotated[Budget, BeforeValidator(read_budget, json_schema_input_type=str)]],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value,
                        json_schema_input_type=str | list[str]),
    ] = []  # fmt: skip
    """What must hold when the stage is over, such as ``accuracy >= 0.97``, ``accuracy >= dense - 0.01``,
    ``parameters <= 0.5x`` or ``latency <= 5 ms``; otherwise the run stops there."""


class PruneStage(_Common, Training):
    """Mask what is least needed, with any pruner."""

    pruner: str = "L1FilterPruner"
    """A class of torchpare.pruning, ``package.module:Class``, or ``plan``: entries ask for structures (heads, mlp,
    blocks, experts, ...), which :func:`torchpare.plan` takes out at once, so that no stage shrink follows."""
    config_list: list[dict[str, Any]] = Field(min_length=1)
    """What to prune, and how much, as the pruner takes it."""
    arguments: dict[str, Any] = {}
    """Further arguments of the pruner. Model, data, optimizer, evaluator and example input it is given anyway."""
    epochs: int = Field(default=1, ge=1)
    """Of pruners that leave training to you (the lottery ticket): epochs in each round."""
    fine_tune_epochs: int = Field(default=0, ge=0)
    """Of pruners that search: epochs for which a candidate is trained before it is evaluated."""


class ShrinkStage(_Common):
    """Cut out what was masked, and prove in float64 that the small model computes what the masked one did."""

    tolerance: float = Field(default=1e-10, gt=0)
    """The largest difference allowed, as a share of the output's range."""


class FinetuneStage(_Common, Training):
    """Train the model, masked, small or quantized."""

    epochs: int = Field(default=1, ge=1)
    """How often to go through the training data."""
    schedule: Schedule = "cosine"
    """How the learning rate goes: it falls to nothing along a half cosine or a line, rises first and then falls
    (one_cycle), or stays."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """The share of all steps over which the learning rate rises to its value."""
    distil: Distillation | None = None
    """Learn from the dense model too."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Keep a moving average of the weights with this decay, and end with it."""


class QuantizeStage(_Common, Training):
    """Fewer bits: calibrated on some batches, or trained to bear it."""

    quantizer: str = "ObserverQuantizer"
    """A class of torchpare.quantization, or ``package.module:Class``."""
    config_list: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    """What to quantize, as the quantizer takes it; weights and inputs of all convolutions and linear layers to eight
    bits, if not given."""
    arguments: dict[str, Any] = {}
    """Further arguments of the quantizer."""
    calibration_batches: int = Field(default=16, ge=1)
    """How many batches are watched."""
    epochs: int = Field(default=0, ge=0)
    """Of training with fake quantization."""
    schedule: Schedule = "cosine"
    """As of finetune."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """As of finetune."""
    distil: Distillation | None = None
    """As of finetune."""


class ExportStage(_Common):
    """Write the model for those who will run it."""

    formats: list[Format] = Field(default=["safetensors", "onnx"], min_length=1)
    """safetensors (torchpare.load reads it), torch (a plain state dict), or a runtime's own file. A quantized model
    goes to the runtimes with its integers."""
    verify: bool = True
    """Run what was written beside PyTorch, and fail where they differ."""


class BenchmarkStage(_Common):
    """Time the model beside the dense one, where they will live."""

    runtimes: list[RuntimeName] = Field(default=["onnxruntime"], min_length=1)
    """What executes them."""
    batch_sizes: list[Annotated[int, Field(ge=1)]] = Field(default=[1], min_length=1)
    """Each is timed."""
    runs: int = Field(default=30, ge=2)
    """Timed rounds."""
    memory: bool = True
    """Also measure peak memory, of each model in a process of its own."""
    evaluate: bool = True
    """Also evaluate what the runtimes compute."""
    must_be_faster: bool = True
    """Stop where the model is not faster than the dense one."""


class StudyStage(_Common):
    """Look at the model as it is: costs by layer, idle channels, ranges, quantization errors, what hangs together."""

    bits: list[Annotated[int, Field(ge=2, le=16)]] = Field(default=[8, 4], min_length=1)
    """Of which quantization errors are measured."""
    batches: int = Field(default=8, ge=1)
    """How many batches of data are looked at."""
    sensitivity: bool = False
    """Also prune every layer by itself, and evaluate: as many evaluations as layers times sparsities."""
    sparsities: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.25, 0.5, 0.75], min_length=1)
    """For that."""


Stage = PruneStage | ShrinkStage | FinetuneStage | QuantizeStage | ExportStage | BenchmarkStage | StudyStage
