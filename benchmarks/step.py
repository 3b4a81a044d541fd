"""How fast is a whole optimiser step of pre-training and of fine-tuning, and what does each part of it cost?

    python benchmarks/step.py [--model convnextv2_atto] [--batch 8] [--image-size 224] [--mask-ratio 0.6]
        [--precision float32] [--device cpu] [--repeats 20] [--task both] [--ways REGEX] [--no-compile]
        [--grad-checkpointing] [--seconds N] [--json FILE]

Side by side in one run: ours and masked dense convolution (pre-training), ours and timm's ConvNeXt V2
(fine-tuning), eager and compiled, with PyTorch's operations and, on a GPU, Triton kernels, and these in CUDA
graphs. All start from the same weights; that losses and gradients agree is checked before anything is timed.
A way that fails, does not agree, or would begin too late is named and left out of the table.
"""

import argparse
import copy
import importlib.util
import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from machine import common_parser, describe, dtype_of, matrix_rate, set_up
from memory import peak_memory
from parts import time_parts
from rich.console import Console
from rich.table import Table
from timing import Spread, ratios, time_side_by_side
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcmae import create_model
from fcmae.engine.precision import autocast
from fcmae.models.formats import to_ours, to_timm
from fcmae.models.kernels.choice import Impl, kernels
from fcmae.models.layouts import find_layout
from fcmae.models.mask import Mask
from fcmae.pretraining.masking import random_mask
from fcmae.pretraining.model import FCMAE

Mode = Literal["eager", "compiled", "graphs"]
BUDGET = {"float32": 1e-3, "bf16": 1e-1, "fp16": 1e-1}  # of the gradients' distance, over their norm


@dataclass
class Step:
    """An optimiser step in one way.

    Args:
        model: on its device
        compute_loss: from the model, compiled or not
        precision: float32, bf16 or fp16, without loss scaling
        impl: of the kernels
        mode: eager, compiled, or compiled into CUDA graphs
        rename: from a dict by the model's names to one by ours
    """

    model: nn.Module
    compute_loss: Callable[[Any], Tensor]
    precision: str
    impl: Impl = "auto"
    mode: Mode = "eager"
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.callable: Callable[..., Any] = self.model
        if self.mode != "eager":
            graphs: dict[str, Any] = {"triton.cudagraphs": True, "triton.cudagraph_or_error": True}
            self.callable = torch.compile(self.model, options=graphs if self.mode == "graphs" else None)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def backward(self) -> Tensor:
        """Forward and backward; the loss."""
        torch.compiler.cudagraph_mark_step_begin()
        with kernels(self.impl):
            with autocast(self.precision, self.device):
                loss = self.compute_loss(self.callable)
            loss.backward()
        return loss

    def prepare(self) -> None:
        """Bring a way to the state it is timed in: CUDA graphs are recorded in the second call."""
        for _ in range(2 if self.mode == "graphs" else 0):
            self.backward()
            self.optimizer.zero_grad()

    def take_gradients(self) -> dict[str, Tensor]:
        """The gradients by our names, in float64, and none left in the model."""
        named = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        gradients = {name: each.double() for name, each in self.rename(named).items()}
        self.optimizer.zero_grad()
        return gradients

    def __call__(self) -> None:
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Check, time, print.

    Raises:
        SystemExit: a way failed, or did not agree
    """
    options = read_options()
    device = set_up(options)
    sound = True
    report: dict[str, Any] = {"machine": describe(device), "options": vars(options), "tasks": {}}
    rate = matrix_rate(device, dtype_of(options.precision))
    report["matrix_tflops"] = rate / 1e12
    tasks = {"pretrain": pretraining, "finetune": finetuning}
    for name, make in tasks.items():
        if options.task in (name, "both"):
            steps, flops = make(options, device)
            steps = {way: step for way, step in steps.items() if re.search(options.ways, way)}
            rows = compare(name, steps, flops, rate, options)
            report["tasks"][name] = rows
            sound &= len(rows) == len(steps)
            write(report, options.json)
    if options.task != "finetune":
        report["parts_ms"] = show_parts(options, device)
        write(report, options.json)
    if not sound or not any(report["tasks"].values()):
        raise SystemExit("the tables lack some ways, or all: see above, and --ways")


def write(report: dict[str, Any], path: Path | None) -> None:
    """Write what there is so far, where a file was asked for."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = common_parser(__doc__ or "")
    parser.add_argument("--precision", choices=("float32", "bf16", "fp16"), default="float32")
    parser.add_argument("--task", choices=("pretrain", "finetune", "both"), default="both")
    parser.add_argument("--ways", default="", help="only those whose names this regular expression finds")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--grad-checkpointing", action="store_true")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="of each task: begin no way after them"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def pretraining(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Step], float]:
    """The ways to pre-train, and the operations of a step that visible patches need, per image."""
    model, images, mask = pretraining_case(options, device)

    def compute_loss(model: nn.Module) -> Tensor:
        loss: Tensor = model(images, mask)[0]
        return loss

    steps = {}
    for layout in ("masked", "tiles", "minkowski"):
        if layout == "minkowski" and not minkowski_runs(options):
            continue
        for impl, mode in variants(options, device, layout):
            one = copy.deepcopy(model)
            one.layout = find_layout(layout)
            steps[f"{layout}, {mode}, {impl}"] = Step(one, compute_loss, options.precision, impl, mode)
    with torch.device("meta"):
        shadow = FCMAE(options.model, options.image_size, options.mask_ratio)
        example = torch.empty(1, 3, options.image_size, options.image_size)
        visible = Mask(torch.empty(1, model.num_visible, dtype=torch.int64), model.grid)
    flops = count_flops(lambda: shadow(example, visible))
    return steps, flops


def pretraining_case(options: argparse.Namespace, device: torch.device) -> tuple[FCMAE, Tensor, Mask]:
    """A model whose GRN is not the identity, noise, and a mask."""
    torch.manual_seed(0)
    name, checkpointing = options.model, options.grad_checkpointing
    model = FCMAE(name, options.image_size, options.mask_ratio, grad_checkpointing=checkpointing)
    draw_grn(model)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size)
    mask = random_mask(options.batch, model.grid, model.num_visible)
    return model.to(device), images.to(device), mask.to(device)


def finetuning(options: argparse.Namespace, device: torch.device) -> tuple[dict[str, Step], float]:
    """The ways to fine-tune, timm's among them, and the operations of a step, per image."""
    torch.manual_seed(0)
    ours = create_model(options.model, grad_checkpointing=options.grad_checkpointing)
    draw_grn(ours)
    theirs: Any = timm.create_model(options.model)
    convolutions = theirs.stages[0].blocks[0].mlp.fc1.weight.ndim == 4  # timm's smaller sizes have these
    theirs.load_state_dict(to_timm(ours.state_dict(), pointwise_convs=convolutions))
    theirs.set_grad_checkpointing(options.grad_checkpointing)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (options.batch,)).to(device)

    def compute_loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(images).float(), labels, label_smoothing=0.1)

    steps = {}
    networks: dict[str, Any] = {"timm": theirs, "ours": ours}
    for name, network in networks.items():
        network.to(device, memory_format=torch.channels_last)
        for impl, mode in variants(options, device, name):
            one, rename = copy.deepcopy(network), to_ours if name == "timm" else dict
            label = f"{name}, {mode}, {impl}"
            steps[label] = Step(one, compute_loss, options.precision, impl, mode, rename)
    with torch.device("meta"):
        shadow = create_model(options.model)
        example = torch.empty(1, 3, options.image_size, options.image_size)
    return steps, count_flops(lambda: shadow(example))


def variants(options: argparse.Namespace, device: torch.device, way: str) -> list[tuple[Impl, Mode]]:
    """Kernels and modes of a way; masked and timm's networks come with PyTorch's operations."""
    modes: list[Mode] = ["eager", "compiled"] if options.compile and way != "minkowski" else ["eager"]
    found: list[tuple[Impl, Mode]] = [("torch", mode) for mode in modes]
    if way in ("tiles", "ours") and device.type == "cuda":
        found += [("triton", mode) for mode in modes]
        if options.compile:
            found.append(("triton", "graphs"))
    return found


def minkowski_runs(options: argparse.Namespace) -> bool:
    """MinkowskiEngine is installed, and built for what is asked (on the CPU it knows float32 alone)."""
    on_cpu = options.device == "cpu" and options.precision == "float32"
    return on_cpu and importlib.util.find_spec("MinkowskiEngine") is not None


def draw_grn(model: nn.Module) -> None:
    """Give GRN weights that are not zero, so that agreement means something."""
    for name, parameter in model.named_parameters():
        if ".grn." in name:
            nn.init.normal_(parameter, std=0.5)


def count_flops(forward: Callable[[], object]) -> float:
    """Operations of a step: three times a forward pass, since backward has two products for each."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    total: int = counter.get_total_flops()
    return 3.0 * total


def compare(
    task: str, steps: dict[str, Step], flops: float, rate: float, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Check that the ways agree, time in turns those that do, print a table; its rows."""
    device, deadline = torch.device(options.device), time.monotonic() + options.seconds
    agreeing = check_agreement(steps, BUDGET[options.precision], deadline)
    memory = {}
    for name in agreeing:
        try:
            memory[name] = peak_memory(steps[name], device)
        except Exception as failure:
            leave_out(name, steps[name], failure)
    steps = {name: steps[name] for name in memory}
    if not steps:
        return []
    seconds = time_side_by_side(dict(steps), options.repeats, device)
    first = next(iter(steps))
    table = Table(
        title=f"{task}: {options.model}, batch {options.batch}, {options.image_size} px, "
        f"{options.precision}, {options.device}: one optimiser step",
        title_justify="left",
    )
    columns = ("way", "ms", "images/s", f"times {first}", "memory MB", "of matrix rate")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "way" else "right")
    rows = []
    for name, each in seconds.items():
        spread = Spread.of([1e3 * value for value in each])
        speed = 1e3 * options.batch / spread.median
        gain, share = ratios(seconds[first], each), flops * speed / rate
        # CUDA graphs keep memory of their own, which is not counted.
        megabytes = None if steps[name].mode == "graphs" else round(memory[name])
        table.add_row(name, str(spread), f"{speed:.0f}", str(gain), str(megabytes or ""), f"{share:.1%}")
        rows.append(
            {"way": name, "ms": vars(spread), "images_per_s": speed, "gain": vars(gain)}
            | {"memory_mb": megabytes, "model_flop_utilisation": share}
        )
    Console(width=140).print(table)
    return rows


def check_agreement(steps: dict[str, Step], budget: float, deadline: float = math.inf) -> list[str]:
    """Losses and all gradients together, against the first way that runs; the ways that agree.

    Args:
        deadline: begin no way when `time.monotonic()` is past it
    """
    expected: tuple[Tensor, dict[str, Tensor]] | None = None
    names: list[str] = []
    for name, step in steps.items():
        if time.monotonic() > deadline:
            print(f"{name}: no time left")
            continue
        try:
            step.prepare()
            loss, gradients = step.backward().detach().double(), step.take_gradients()
        except Exception as failure:  # no memory, or whatever a compiler or driver raises
            leave_out(name, step, failure)
            continue
        expected = expected or (loss, gradients)
        distances = [(gradients[key] - each).norm() for key, each in expected[1].items()]
        apart = float(
            torch.stack(distances).norm() / torch.stack([*map(torch.norm, expected[1].values())]).norm()
        )
        print(f"{name}: loss {loss:.5f}, gradients {apart:.1e} apart")
        if apart < budget and abs(loss - expected[0]) < budget * abs(expected[0]):
            names.append(name)
        else:
            print(f"{name}: does not agree, and is not timed")
    return names


def leave_out(name: str, step: Step, failure: Exception) -> None:
    """Say why a way is not in the table, and free its gradients."""
    reason = str(failure).strip().partition("\n")[0][:200]
    print(f"{name}: left out, {type(failure).__name__}: {reason}")
    step.optimizer.zero_grad()


def show_parts(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Print what the parts of an eager step in tiles cost; milliseconds by part."""
    model, images, mask = pretraining_case(options, device)

    def compute_loss(model: nn.Module) -> Tensor:
        loss: Tensor = model(images, mask)[0]
        return loss

    step = Step(model, compute_loss, options.precision)
    step.backward()
    with autocast(options.precision, device):
        seconds = time_parts(model, images, mask, step.optimizer, options.repeats)
    table = Table(title="parts of a pre-training step in tiles, each alone, eager", title_justify="left")
    for heading in ("part", "ms", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, each in seconds.items():
        table.add_row(name, f"{1e3 * each:.2f}", f"{each / sum(seconds.values()):.1%}")
    Console(width=140).print(table)
    return {name: 1e3 * each for name, each in seconds.items()}


if __name__ == "__main__":
    main()
