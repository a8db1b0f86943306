"""What the integration tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.origin import Origin
from support.proxy import Proxy
from support.real import Nginx
from support.rig import Rig


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A proxy with one HTTP listener (TCP and Unix) before one scripted origin."""
    rig = Rig().start()
    yield rig
    rig.stop()


@pytest.fixture(autouse=True)
def show_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the shared proxy logged during a test, beside the test's failure."""
    yield
    if "rig" in request.fixturenames:
        print(request.getfixturevalue("rig").proxy.new_stderr())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy on a configuration; it is stopped, with its verdict, when the test ends."""
    started: list[Proxy] = []

    def start(config: dict[str, Any] | str, **settings: Any) -> Proxy:
        if not isinstance(config, str):
            config = {"workers": 1, "drain": {"timeout": "2s"}, **config}
        proxy = Proxy(tmp_path, config)
        started.append(proxy)
        return proxy.start(**settings)

    yield start
    for proxy in started:
        print(proxy.new_stderr())
    try:
        for proxy in started:
            proxy.stop()
    finally:
        for proxy in started:
            proxy.kill()


@pytest.fixture
def origins() -> Iterator[Callable[..., Origin]]:
    """Make origins; they are closed when the test ends."""
    made: list[Origin] = []

    def make(name: str = "origin", **settings: Any) -> Origin:
        made.append(Origin(name=name, **settings))
        return made[-1]

    yield make
    for origin in made:
        origin.close()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """nginx with files to serve: small.txt, empty.txt, 1MiB.bin, and /gone, /redirect, /echo-headers."""
    server = """
        location /gone { return 404 "gone\\n"; }
        location /redirect { return 302 /small.txt; }
        location /nothing { return 204; }
        location /put/ { client_max_body_size 100m; dav_methods PUT; create_full_put_path on; }
        location /head { add_header X-Seen-Host $host; add_header X-Seen-For $http_x_forwarded_for; return
        200 "ok\\n"; }
    """
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), server)
    (nginx.root / "small.txt").write_bytes(b"small file\n")
    (nginx.root / "empty.txt").write_bytes(b"")
    (nginx.root / "1MiB.bin").write_bytes(bytes(range(256)) * 4096)
    yield nginx
    nginx.stop()
