"""Tiny backbones of every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from tests.rmt.families import build


@pytest.fixture(scope="session")
def tiny() -> Callable[..., PreTrainedModel]:
    """The factory :func:`build`."""
    return build
