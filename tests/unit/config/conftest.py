"""What the tests of the configuration share."""

from pathlib import Path

import pytest

from support.config_folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
