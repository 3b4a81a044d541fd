"""`fcmae data inspect`: say what images there are, and draw some."""

import json
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.finetune.checks import check_out
from fcmae.launch.cli.data.reading import check_reading, count_workers, open_source, source_parser


def run(argv: list[str]) -> int:
    """Inspect the images; return the exit status.

    Raises:
        UserError: an option that cannot be, no images, or a picture that cannot be written
    """
    options = make_parser().read(argv)
    if options.sample is not None and options.sample < 1:
        raise UserError(f"--sample is {options.sample}: it must be at least 1")
    check_out(options.out)
    check_reading(options)
    from fcmae.data.tools.contact_sheet import draw_contact_sheet  # imports torch
    from fcmae.data.tools.inspect import inspect
    from fcmae.engine.pictures import save_figure

    pieces, workers = open_source(options), count_workers(options)
    findings = inspect(pieces, options.channels, options.sample, workers, f"Inspecting {options.source}")
    save_figure(draw_contact_sheet(pieces, options.channels), options.out)
    summary = findings.summary()
    if options.json:
        print(json.dumps(summary, indent=1))
        return 0
    Console(width=None if Console().is_terminal else 120, highlight=False).print(make_table(summary))
    print(f"look at {options.out}")
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = source_parser("fcmae data inspect", "SOURCE", "Say what images there are, and draw some.")
    parser.add_argument(
        "--sample", type=int | None, default=None, help="how many images to look at; by default all"
    )
    parser.add_argument(
        "--no_data",
        type=Literal["nan", "mask"] | float | None,
        default=None,
        help="stored values that are none, see --images.no-data of training: a number, nan or mask",
    )
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"), help="picture to write")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return parser


def make_table(summary: dict[str, Any]) -> Table:
    """Return what was found, a line for each thing.

    Args:
        summary: see `Findings.summary`
    """
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    total = sum(summary["images"].values())
    rows = {
        "images": ", ".join(f"{count} {name}" for name, count in summary["images"].items()),
        "looked at": "" if summary["looked_at"] == total else f"{summary['looked_at']} of {total}",
        "size": f"{summary['bytes'] / 1e6:,.3g} MB",
        **{name: _counts(summary[name]) for name in ("formats", "modes", "channels")},
        **{name: _spread(summary[name.replace(" ", "_")]) for name in ("width", "height", "short side")},
        "classes": _classes(summary["classes"]) or summary["unlabelled"],
        "passed over": _counts(summary["passed_over"]),
        "broken": _broken(summary["broken"]),
        "duplicates": _duplicates(summary["duplicates"]),
        "mean": _numbers(summary["mean"]),
        "std": _numbers(summary["std"]),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, escape(text))
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _spread(spread: dict[str, int] | None) -> str:
    return "" if spread is None else "{least} to {greatest} pixels, median {median}".format(**spread)


def _classes(classes: dict[str, Any] | None) -> str:
    if classes is None:
        return ""
    lines = [str(classes["count"])]
    for piece, told in classes.items():
        if piece != "count":
            lines.append(
                f"{piece}: from {told['smallest'][1]} ({told['smallest'][0]}) to {told['largest'][1]} "
                f"({told['largest'][0]}) images of a class, median {told['median']}"
                + (f"; {told['without_images']} classes without images" if told["without_images"] else "")
            )
    return "\n".join(lines)


def _broken(broken: dict[str, Any]) -> str:
    lines = [f"{name}: {reason}" for name, reason in broken["examples"]]
    return "\n".join([str(broken["count"]), *lines])


def _duplicates(duplicates: dict[str, Any]) -> str:
    lines = [f"{duplicates['needless']} copies of {duplicates['groups']} images"]
    if duplicates["in_train_and_val"]:
        lines.append(f"{duplicates['in_train_and_val']} images to measure on are training images too")
    return "\n".join([*lines, *(" = ".join(group) for group in duplicates["examples"])])


def _numbers(numbers: list[float] | None) -> str:
    return "" if numbers is None else " ".join(f"{number:.4g}" for number in numbers)
