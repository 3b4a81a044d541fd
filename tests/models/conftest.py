"""Small networks of both versions, timm's with the same weights, and images of an odd size."""

import pytest
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import Tensor

from fcmae import ConvNeXt, create_model
from tests.conftest import Randomize
from tests.models.against_timm import SMALL, draw, timm_twin


@pytest.fixture(params=["convnext_tiny", "convnextv2_atto"])
def ours(request: pytest.FixtureRequest, randomize: Randomize) -> ConvNeXt:
    return randomize(create_model(request.param, num_classes=3, **SMALL)).double()


@pytest.fixture
def theirs(ours: ConvNeXt) -> TimmConvNeXt:
    return timm_twin(ours)


@pytest.fixture
def images() -> Tensor:
    return draw(3, 3, 33, 47)
