"""A network and its exported project, made once for each file."""

import shutil
from pathlib import Path

import pytest

from diffhep.trigger.export import export
from tests.trigger.firmware import make


@pytest.fixture(scope="module")
def model():
    return make((12, 16, 8, 1), bits=12)[0]


@pytest.fixture(scope="module")
def project(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "firmware"
    export(model, folder, metadata={"seed": 0, "data": "normal"})
    return folder


@pytest.fixture
def copy(project, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(project, tmp_path / "moved" / "elsewhere"))
