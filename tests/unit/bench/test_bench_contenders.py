import os
import re
from pathlib import Path

import pytest

from bench import contenders
from bench.contenders import CONTENDERS, HTTP, LOGGED, PLAIN, POLICIES, RELOADABLE, TCP, Job
from bench.contenders.contender import filled, put
from bench.harness.place import BENCH, BenchError

ORDER = ["direct", "floor", "fastmesh", "nginx", "haproxy", "envoy", "traefik", "caddy"]
PROXIES = ORDER[2:]


@pytest.fixture(autouse=True)
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration is written whether or not the program is installed."""
    monkeypatch.setattr("bench.contenders.fastmesh.fastmesh_python", lambda: "python")
    stand_in = program(tmp_path / "stand-in", "configure arguments: --with-stream --prefix=/nowhere")
    for name in PROXIES[1:]:
        monkeypatch.setitem(CONTENDERS, name, CONTENDERS[name].with_binary(str(stand_in)))


def program(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def job(folder: Path, variant: str = PLAIN, policy: str = "round_robin", ports: int = 2) -> Job:
    folder.mkdir(exist_ok=True)
    origins = tuple(range(1001, 1001 + ports))
    return Job(folder, origins, variant, http_port=2001, tcp_port=2002, admin_port=2003, cpu=0, policy=policy)


def written(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.iterdir()) if path.is_file())


def test_the_order_in_which_they_are_shown() -> None:
    assert list(CONTENDERS) == ORDER
    assert [contender.name for contender in CONTENDERS.values()] == ORDER


@pytest.mark.parametrize(
    ("name", "variant", "policy"),
    [
        (name, variant, policy)
        for name in PROXIES
        for variant in sorted(CONTENDERS[name].variants)
        for policy in sorted(CONTENDERS[name].policies)
    ],
)
def test_a_configuration_is_filled_in(tmp_path: Path, name: str, variant: str, policy: str) -> None:
    """No name between at signs is left; each endpoint is there, and each listener's port."""
    asked = job(tmp_path / "own", variant, policy, ports=3)
    CONTENDERS[name].command(asked)
    text = written(asked.folder)
    assert re.findall(r"@[A-Z_]+@", text) == []
    relays = TCP in CONTENDERS[name].listeners
    # fastmesh, Envoy and Caddy name the endpoints once for both listeners.
    times = 2 if name in ("nginx", "haproxy", "traefik") else 1
    for port in asked.origin_ports:
        assert len(re.findall(rf"\b{port}\b", text)) == times
    assert len(re.findall(r"\b2001\b", text)) == 1
    assert len(re.findall(r"\b2002\b", text)) == relays


@pytest.mark.parametrize("name", PROXIES)
def test_policies_differ_in_the_configuration(tmp_path: Path, name: str) -> None:
    texts = set()
    for policy in CONTENDERS[name].policies:
        asked = job(tmp_path / "own", policy=policy)
        CONTENDERS[name].command(asked)
        texts.add(written(asked.folder))
    assert len(texts) == len(CONTENDERS[name].policies)


@pytest.mark.parametrize("name", ORDER)
def test_what_one_lacks_has_a_reason(name: str) -> None:
    contender = CONTENDERS[name]
    offered = contender.listeners | contender.variants | contender.policies
    lacking = {HTTP, TCP, PLAIN, LOGGED, RELOADABLE, *POLICIES} - offered
    assert set(contender.lacks) == lacking
    for listener in {HTTP, TCP} & lacking:
        assert contender.unable(listener=listener) == contender.lacks[listener]
    for policy in set(POLICIES) & lacking:
        assert contender.unable(policy=policy) == contender.lacks[policy]
    assert contender.unable() == ""


def test_what_cannot_be_done_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="Caddy has no Maglev"):
        contenders.start(
            CONTENDERS["caddy"], PLAIN, origin_ports=[1], cpu=0, folder=tmp_path, policy="maglev"
        )


def test_every_template_says_what_it_is_and_is_used(tmp_path: Path) -> None:
    used = set()
    for name in PROXIES:
        asked = job(tmp_path / name)
        CONTENDERS[name].command(asked)
        used |= {path.name for path in asked.folder.iterdir() if path.is_file()}
    assert used == {path.name for path in (BENCH / "peers").iterdir()}
    for path in (BENCH / "peers").iterdir():
        assert "@NAME@ is filled in by bench/contenders/." in "".join(path.read_text().splitlines(True)[:3])


def test_a_template_with_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="ENDPOINTS"):
        filled("haproxy.cfg", job(tmp_path), POLICY="")


def test_a_file_is_moved_into_place(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    put(path, "one")
    before = path.stat().st_ino
    with path.open() as old:
        assert put(path, "two") == path
        assert (old.read(), path.read_text()) == ("one", "two")
    assert path.stat().st_ino != before
    assert [left.name for left in tmp_path.glob("file*")] == ["file.yaml"]


@pytest.mark.parametrize(
    ("built_with", "listeners"),
    [
        ("--with-stream --prefix=/x", {HTTP, TCP}),
        ("--with-stream_ssl_module --prefix=/x", {HTTP}),
        ("--prefix=/x", {HTTP}),
    ],
)
def test_an_nginx_with_and_without_streams(tmp_path: Path, built_with: str, listeners: set[str]) -> None:
    nginx = program(tmp_path / "own-nginx", f"configure arguments: {built_with}")
    contender = CONTENDERS["nginx"].with_binary(str(nginx), "own")
    assert contender.listeners == listeners
    assert bool(contender.unable(listener=TCP)) == (TCP not in listeners)
    asked = job(tmp_path / "own")
    contender.command(asked)
    assert (asked.folder / "nginx-stream.conf").exists() == (TCP in listeners)
    assert "load_module" not in written(asked.folder)


def test_an_nginx_whose_streams_are_a_module(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    nginx = program(tmp_path / "own-nginx", f"arguments: --with-stream=dynamic --modules-path={modules}")
    with pytest.raises(BenchError, match="libnginx-mod-stream"):
        CONTENDERS["nginx"].with_binary(str(nginx))
    (modules / "ngx_stream_module.so").touch()
    asked = job(tmp_path / "own")
    CONTENDERS["nginx"].with_binary(str(nginx)).command(asked)
    assert f"load_module {modules}/ngx_stream_module.so;" in written(asked.folder)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("/opt/envoy  version: 9e5/1.40.0/Clean/RELEASE/BoringSSL", "envoy/1.40.0"),
        ("envoy  version: 9e5/1.41.0-dev/Modified/DEBUG/BoringSSL", "envoy/1.41.0-dev DEBUG"),
    ],
)
def test_envoys_version(tmp_path: Path, says: str, version: str) -> None:
    envoy = program(tmp_path / "own-envoy", says)
    assert CONTENDERS["envoy"].with_binary(str(envoy)).version() == version


def test_a_program_that_is_another_one(tmp_path: Path) -> None:
    envoy = program(tmp_path / "own-envoy", "nginx version: nginx/1.22.1")
    with pytest.raises(BenchError, match="this is no Envoy, it says: nginx version"):
        CONTENDERS["envoy"].with_binary(str(envoy)).version()


@pytest.mark.parametrize("name", PROXIES)
def test_a_program_that_cannot_be_run(tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'it is broken' >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(BenchError, match=r"broken .* failed: it is broken"):
        CONTENDERS[name].with_binary(str(broken)).version()


def test_a_wheel_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("bench.contenders.contender.ROOT", tmp_path)
    with pytest.raises(BenchError, match=r"traefik is missing; `make bench-packages` installs it"):
        contenders.TRAEFIK.version()


def test_peers_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "own", "--with-stream")
    assert contenders.parse_peer(f"nginx={path}") == ("nginx", None, str(path))
    assert contenders.parse_peer(f"nginx@1.29-mine={path}") == ("nginx", "1.29-mine", str(path))
    monkeypatch.chdir(tmp_path)
    assert contenders.parse_peer("caddy=./own") == ("caddy", None, str(path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert contenders.parse_peer("caddy=own") == ("caddy", None, str(path))


def test_a_link_to_a_python_stays_one(tmp_path: Path) -> None:
    """Its folder says which packages it has."""
    (tmp_path / "python").symlink_to("/bin/sh")
    assert contenders.parse_peer(f"fastmesh@old={tmp_path}/python")[2] == str(tmp_path / "python")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nginx", "write NAME=/path/to/program"),
        ("nginx@=/bin/sh", "write NAME=/path/to/program"),
        ("nginx@a/b=/bin/sh", "write NAME=/path/to/program"),
        ("nginx=", "write NAME=/path/to/program"),
        ("ngnix=/bin/sh", "there is no peer 'ngnix'; there are: fastmesh, nginx, haproxy, envoy"),
        ("floor=/bin/sh", "there is no peer 'floor'"),
        ("nginx=/nowhere/nginx", "/nowhere/nginx is not a program that can be run"),
        ("nginx=/etc/passwd", "/etc/passwd is not a program that can be run"),
        ("nginx=/etc", "/etc is not a program that can be run"),
    ],
)
def test_peers_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(BenchError, match=re.escape(f"--peer {text}: {complaint}")):
        contenders.parse_peer(text)


def test_where_peers_stand(tmp_path: Path) -> None:
    path = program(tmp_path / "own", "configure arguments: --with-stream")
    usual = dict(CONTENDERS)
    chosen = contenders.with_peers([f"nginx@old={path}", f"haproxy={path}", f"nginx@new={path}"])
    assert list(chosen) == [*ORDER[:4], "nginx@old", "nginx@new", *ORDER[4:]]
    assert chosen["nginx"] is usual["nginx"]
    assert chosen["haproxy"] is not usual["haproxy"]
    assert chosen["haproxy"].command(job(tmp_path / "own-folder")).argv[0] == str(path)
    assert usual == CONTENDERS


@pytest.mark.parametrize("name", ["direct", "floor"])
def test_what_is_no_program_of_its_own(name: str) -> None:
    with pytest.raises(BenchError, match="--peer cannot name another"):
        CONTENDERS[name].with_binary("/bin/sh")
