"""Does pre-training pay? CIFAR-10 with a tenth of the labels and with all, from FCMAE and from scratch.

    python benchmarks/cifar10.py --out FOLDER [--data DIR] [--seeds 3] [--at-once 2] [--loop.compile true ...]

CIFAR-10 is downloaded, unless DIR holds train/ and val/ with a folder of images for each class. ConvNeXt V2
and V1 are pre-trained on all training images without labels; then each is fine-tuned from those weights and
from scratch, with the same settings, the same images and as many epochs. Accuracy is that of the last epoch:
none is chosen by the images it is measured on. What this script does not know goes to every run as it is.
Prints the table of docs/results.md and draws the accuracy by epoch; complete runs are kept, so that the same
command goes on after an interruption.
"""

import argparse
import json
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.progress import track

from fcmae.data.sources import SourceOptions, find_opener, open_splits
from fcmae.data.sources.folder import FolderOpener
from fcmae.engine.run_folder import RunFolder

MODELS = {"V2": "convnextv2_atto", "V1": "convnext_tiny"}  # the recipes give both the same depths and widths
STARTS = {"scratch": "#718096", "FCMAE": "#dd6b20"}


@dataclass(frozen=True)
class Cell:
    """One fine-tuning: a version, a share of the labels, where its weights come from, a seed."""

    version: str
    share: float
    start: str
    seed: int

    def __str__(self) -> str:
        return f"{self.version}-{self.share:g}-{self.start}-{self.seed}"


def main() -> None:
    """Pre-train, fine-tune, report."""
    options, settings = read_options()
    in_folder = isinstance(find_opener(options.data), FolderOpener)
    if not in_folder:  # download it once, before runs beside each other would
        open_splits(options.data, SourceOptions(channels=3, size=32, root=options.data_root))
    options.out.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // options.at_once))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    epochs = {0.1: options.epochs_tenth, 1.0: options.epochs_all}
    cells = [
        Cell(version, share, start, seed)
        for share, seeds in ((0.1, options.seeds), (1.0, options.seeds_all))
        for seed in range(seeds)
        for version in MODELS
        for start in STARTS
    ]

    def fcmae(name: str, *arguments: object) -> None:
        data_root = ["--data-root", options.data_root]
        words = ["fcmae", *map(str, arguments), *data_root, "--config", "cifar10", *settings]
        path = options.out / f"{name}.log"
        with path.open("a") as log:
            command = [*words, "--out", str(options.out / name)]
            if subprocess.run(command, env=environment, stdout=log, stderr=log).returncode:
                raise SystemExit(f"{name} failed: {path} says why")

    def pretrain(version: str) -> None:
        data = Path(options.data) / "train" if in_folder else options.data
        images = ["--data", data, "--model", MODELS[version]]
        fcmae(f"pretrain-{version}", "pretrain", *images, "--epochs", options.pretrain_epochs)

    def finetune(cell: Cell) -> None:
        words = ["--data", options.data, "--model", MODELS[cell.version], "--train-fraction", cell.share]
        if cell.start == "FCMAE":
            words += ["--init", options.out / f"pretrain-{cell.version}"]
        fcmae(str(cell), "finetune", *words, "--epochs", epochs[cell.share], "--seed", cell.seed)

    with ThreadPoolExecutor(options.at_once) as pool:
        list(track(pool.map(pretrain, MODELS), "Pre-training", len(MODELS)))
        list(track(pool.map(finetune, cells), "Fine-tuning", len(cells)))
    curves = {cell: accuracy(options.out / str(cell)) for cell in cells}
    draw(curves, options.out / "cifar10.png")
    results = {str(cell): values for cell, values in curves.items()}
    (options.out / "cifar10.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("\n".join(table(curves)))


def read_options() -> tuple[argparse.Namespace, list[str]]:
    """The command line: what this script knows, and settings for every run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="cifar10", help="folder with train/ and val/, or a name")
    parser.add_argument(
        "--data-root", default="data", help="where data given by name lies, or is downloaded to"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and the results")
    parser.add_argument("--pretrain-epochs", type=int, default=14)
    parser.add_argument("--epochs-tenth", type=int, default=15, help="of fine-tuning on a tenth")
    parser.add_argument("--epochs-all", type=int, default=3, help="of fine-tuning on all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind on a tenth of the labels")
    parser.add_argument("--seeds-all", type=int, default=1, help="runs of each kind on all labels")
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other")
    return parser.parse_known_args()


def accuracy(run: Path) -> list[float]:
    """Top-1 accuracy after each epoch of a run, in percent."""
    return [record["top1"] for record in RunFolder(run).records() if "top1" in record]


def table(curves: dict[Cell, list[float]]) -> list[str]:
    """Mean and standard deviation over seeds after the last epoch, as Markdown."""
    lines = ["| network | labels | from scratch | from FCMAE | gain |", "| --- | --- | ---: | ---: | ---: |"]
    for version, share in dict.fromkeys((cell.version, cell.share) for cell in curves):
        kind = [cell for cell in curves if (cell.version, cell.share) == (version, share)]
        last = {start: [curves[cell][-1] for cell in kind if cell.start == start] for start in STARTS}
        gains = [after - before for before, after in zip(*last.values(), strict=True)]
        figures = " | ".join(mean_and_spread(values) for values in (*last.values(), gains))
        lines.append(f"| ConvNeXt {version} | {share:.0%} | {figures} |")
    return lines


def mean_and_spread(values: list[float]) -> str:
    """Mean ± standard deviation, where there is more than one value."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def draw(curves: dict[Cell, list[float]], path: Path) -> None:
    """Accuracy by epoch, a line for each run and a panel for each network and share of the labels."""
    kinds = list(dict.fromkeys((cell.version, cell.share) for cell in curves))
    figure = Figure(figsize=(3.2 * len(kinds), 3.0), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, (version, share) in zip(panels, kinds, strict=True):
        for start, color in STARTS.items():
            for cell, values in curves.items():
                if (cell.version, cell.share, cell.start) == (version, share, start):
                    label = start if cell.seed == 0 else None
                    axes.plot(range(1, len(values) + 1), values, color=color, label=label, linewidth=1.6)
        axes.set_title(f"ConvNeXt {version}, {share:.0%} of the labels", loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("top-1 on the test images, %")
    panels[0].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
