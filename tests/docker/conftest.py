"""What the tests on a Docker engine share: the engine, images, and containers that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.base_image import base_image
from support.engine import Engine, leftovers
from support.mesh import Images, Mesh

HERE = Path(__file__).parent
IMAGE = "fastmesh-test"
INIT_IMAGE = "fastmesh-test-init"
SERVERS_IMAGE = "fastmesh-test-servers"
TEST_SECONDS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.docker)
            # What makes the images takes minutes and has time-outs of its own.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def session_engine() -> Iterator[Engine]:
    engine = Engine()
    try:
        yield engine.start()
    finally:
        engine.stop()
    if engine.is_own:
        assert leftovers() == [], "the engine has gone and left these behind"


@pytest.fixture(scope="session")
def base(session_engine: Engine) -> str:
    """The tag of a Debian with Python."""
    return base_image(session_engine)


@pytest.fixture(scope="session")
def image(session_engine: Engine, base: str) -> str:
    """The tag of the image of this checkout."""
    session_engine.build("docker/Dockerfile", IMAGE, f"--build-arg=BASE={base}")
    return IMAGE


@pytest.fixture(scope="session")
def init_image(session_engine: Engine, image: str) -> str:
    """The tag of the init image of this checkout."""
    session_engine.build("docker/init.Dockerfile", INIT_IMAGE, f"--build-arg=IMAGE={image}")
    return INIT_IMAGE


@pytest.fixture(scope="session")
def servers(session_engine: Engine, base: str) -> str:
    """The tag of the base with a database and a DNS server."""
    session_engine.build("tests/docker/servers.Dockerfile", SERVERS_IMAGE, f"--build-arg=BASE={base}")
    return SERVERS_IMAGE


@pytest.fixture(scope="module")
def mesh(
    session_engine: Engine,
    base: str,
    servers: str,
    image: str,
    init_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mesh]:
    """A network for the applications and sidecars of a module."""
    with session_engine.cleaning():
        yield Mesh(session_engine, Images(base, servers, image, init_image), tmp_path_factory.mktemp("mesh"))


@pytest.fixture
def engine(session_engine: Engine) -> Iterator[Engine]:
    """The engine; what a test makes in it is gone afterwards."""
    with session_engine.cleaning():
        yield session_engine
