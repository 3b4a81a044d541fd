"""What is computed: networks, the layouts they run in, and their kernels. Imports nothing else of ours."""

from models.convnext import ConvNeXt, create_model, list_models
from models.layouts import create_layout

__all__ = ["ConvNeXt", "create_layout", "create_model", "list_models"]
