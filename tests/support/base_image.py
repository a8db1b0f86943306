"""The base of the images in tests.

Nothing is pulled: `debootstrap` makes a Debian with Python, as lean as the official images of Python are, and
`docker import` takes it. What pip and apt need to reach their registries from within a build (certificates,
settings) is baked into this base, and so into no file of the project. The archive is kept in `build/docker`.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit

from support.engine import STATE, Engine, proxies

PACKAGES = ("python3", "ca-certificates")
# For a machine that is no Debian of this age itself.
FALLBACK = ("bookworm", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
# Parts of apt's settings that say how to reach a mirror.
REACHING = ("Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Check-", "Acquire::Retries")


def base_image(engine: Engine) -> str:
    """The tag of the base in this engine; makes what is missing."""
    suite, mirror = suite_and_mirror()
    settings = {"etc/pip.conf": pip_settings(), "etc/apt/apt.conf.d/99machine": apt_settings()}
    recipe = repr((suite, mirror, PACKAGES, settings, inspect.getsource(sys.modules[__name__])))
    digest = hashlib.sha256(recipe.encode() + certificates()).hexdigest()[:12]
    tag = f"fastmesh-test-base:{suite}-{digest}"
    if not engine.docker("images", "--quiet", tag).strip():
        archive = STATE / f"base-{suite}-{digest}.tar"
        STATE.mkdir(parents=True, exist_ok=True)
        with (STATE / "base.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not archive.exists():
                remove_old()
                make_archive(archive, suite, mirror, settings)
        changes = ("--change", 'CMD ["python3"]')
        engine.docker("import", *changes, str(archive), tag, timeout=180)
    return tag


def suite_and_mirror() -> tuple[str, str]:
    """Debian's code name and mirror, of this machine where it is a Debian whose Python is new enough."""
    fields = "$(ORIGIN) $(RELEASE) $(REPO_URI) $(CREATED_BY)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", fields], capture_output=True, text=True, check=False
    )
    release = dict(
        line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    name, number = release.get("VERSION_CODENAME", ""), release.get("VERSION_ID", "0").strip('"')
    for line in listed.stdout.splitlines():
        origin, suite, mirror, made_by = line.split()
        if (
            (origin, suite, made_by) == ("Debian", name, "Packages")
            and number.isdecimal()
            and int(number) >= 12
        ):
            return suite, mirror.rstrip("/")
    return FALLBACK


def make_archive(archive: Path, suite: str, mirror: str, settings: dict[str, str]) -> None:
    """Raises AssertionError with the log of debootstrap."""
    root = Path(tempfile.mkdtemp(prefix="base-", dir=archive.parent))
    try:
        run = subprocess.run(
            [
                *("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                *([f"--keyring={KEYRING}"] if KEYRING.exists() else []),
                *(suite, str(root), mirror),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                **proxies(),
                "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
                "DPKG_FORCE": "unsafe-io",  # a crash makes it anew: nothing need be on the disk
            },
            check=False,
        )
        assert run.returncode == 0, f"debootstrap failed:\n{run.stdout[-10_000:]}"
        make_lean(root)
        for name, text in settings.items():
            (root / name).write_text(text)
        (root / BUNDLE).write_bytes(certificates())
        copy_local_wheels(root)
        unfinished = archive.with_suffix(".part")
        subprocess.run(["tar", "--numeric-owner", "-C", str(root), "-cf", str(unfinished), "."], check=True)
        unfinished.rename(archive)
    finally:
        remove_folder(root)


def remove_old() -> None:
    """Archives of other recipes, and what a run left that was killed."""
    for path in STATE.glob("base-*"):
        remove_folder(path) if path.is_dir() else path.unlink()


def make_lean(root: Path) -> None:
    """Without what the official images leave out: lists, documentation, bytecode of the standard library."""
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
        for path in (root / folder).iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(root / "usr/share/locale")
    for cache in list((root / "usr/lib").rglob("__pycache__")):
        shutil.rmtree(cache)
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")


def remove_folder(root: Path) -> None:
    """debootstrap mounts /proc for a while: nothing may be mounted below a folder that is deleted."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{root}/"):
            subprocess.run(["umount", point], check=True)
    shutil.rmtree(root)


def certificates() -> bytes:
    """The bundle of certificates that this machine trusts."""
    named = (os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    for path in (*filter(None, named), f"/{BUNDLE}"):
        if Path(path).is_file():
            return Path(path).read_bytes()
    return b""


def pip_settings() -> str:
    """pip's settings on this machine, from its files and its environment, as one file."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    merged = RawConfigParser()
    merged["global"] = {}
    ours = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section == ":env:":
            ours[key] = value.strip("'")  # the environment wins over files
        elif section in ("global", "install", "wheel", "download"):
            merged.setdefault(section, {})
            merged[section][key] = value.strip("'")
    merged["global"].update(ours)
    if merged.has_option("global", "cert"):
        merged["global"]["cert"] = f"/{BUNDLE}"
    with tempfile.TemporaryFile("w+") as file:
        merged.write(file)
        file.seek(0)
        return file.read()


def copy_local_wheels(root: Path) -> None:
    """A folder of wheels that pip is told to look into is there in the base too."""
    settings = RawConfigParser()
    settings.read_string(pip_settings())
    for place in settings.get("global", "find-links", fallback="").split():
        folder = Path(place)
        if not urlsplit(place).scheme and folder.is_absolute():
            (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
            if folder.is_dir():
                shutil.copytree(folder, root / place.lstrip("/"), dirs_exist_ok=True)


def apt_settings() -> str:
    listed = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    return "".join(f"{line}\n" for line in listed.stdout.splitlines() if line.startswith(REACHING))
