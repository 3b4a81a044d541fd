"""`fcmae export`: convert trained weights for other tools."""

from pathlib import Path

from fcmae.core.settings import Parser
from fcmae.finetune.checks import ExportFormat, check_export, check_weights
from fcmae.launch.cli.parsers import add_image_size, check_numbers

LINES = {
    "onnx": """  import onnxruntime
  session = onnxruntime.InferenceSession("{out}")
  (outputs,) = session.run(None, {{"images": images}})""",
    "torch": """  import torch
  outputs = torch.export.load("{out}").module()(images)""",
    "timm": """  import timm
  model = timm.create_model("local-dir:{out}", pretrained=True)""",
    "transformers": """  from transformers import AutoModel  # with a head: AutoModelForImageClassification
  model = AutoModel.from_pretrained("{out}")""",
}


def run(argv: list[str]) -> int:
    """Write the other form, and compare its outputs with ours; return the exit status.

    Raises:
        UserError: an option that cannot be, weights that are not there, or a place that is taken
    """
    options = make_parser().read(argv)
    check_numbers(options)
    check_weights(options.weights, "cpu")
    check_export(options.format, options.out)
    from fcmae.finetune.commands.export import export  # imports torch

    size = None if options.image_size is None else (options.image_size, options.image_size)
    exported = export(options.weights, options.format, options.out, size)
    print(f"wrote {exported.path}; its outputs differ from ours by {exported.difference:.1e} at most")
    print("read it in Python by:\n" + LINES[options.format].format(out=exported.path))
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser("fcmae export", "Convert weights for other tools, and check that the outputs agree.")
    parser.add_argument("--weights", type=Path, required=True, help="run folder, file or name of weights")
    parser.add_argument("--format", type=ExportFormat, default="onnx", help="form to write")
    parser.add_argument("--out", type=Path, required=True, help="file or folder to write")
    add_image_size(parser)
    return parser
