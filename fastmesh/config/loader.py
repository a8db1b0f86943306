"""`load`: from a path to a validated configuration, or to all that is wrong with it at once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from fastmesh.config import sidecar, texts
from fastmesh.config.expand import Expander
from fastmesh.config.kinds import INVALID, Item, Values, problem
from fastmesh.config.listeners import BindTable, build_listener
from fastmesh.config.services import Draft, Inherited, build_service, join
from fastmesh.config.source import Document, Node, read_document
from fastmesh.config.table import REGISTRY_FILE, ROOT
from fastmesh.errors import ConfigError, Problem
from fastmesh.model import (
    AccessLog,
    Admin,
    Config,
    Drain,
    Limits,
    Listener,
    Log,
    Secrets,
    Service,
)

REGISTRY_SUFFIXES = (".yaml", ".yml")


class Loaded(Struct, frozen=True):
    """A valid configuration.

    `files` are all that it was read from: the file itself, the registry folder and its files, and the targets
    of `${file:…}`. `warnings` are in file order.
    """

    config: Config
    files: tuple[Path, ...]
    warnings: tuple[Problem, ...]


def load(path: str | Path, *, env: Mapping[str, str] = os.environ) -> Loaded:
    """Read and validate the file at `path` and its registry folder.

    Raises ConfigError with every problem found, each at its place; its `files` are those to watch for a cure.
    """
    collecting = gc.isenabled()
    gc.disable()  # many objects and no garbage: half of the time would go to looking for some
    try:
        config, files, problems = _load(Path(path), str(path), Expander(env))
    finally:
        if collecting:
            gc.enable()
    if config is None or any(found.severity == "error" for found in problems):
        raise ConfigError(problems, files)
    return Loaded(config, files, problems)


def _load(
    main: Path, name: str, expander: Expander
) -> tuple[Config | None, tuple[Path, ...], tuple[Problem, ...]]:
    document = read_document(main, name, expander)
    documents = [document]
    values = _read_root(document, ROOT, "at least `listeners:` and `services:`")
    parts: list[dict[str, Item]] = []
    watched: list[Path] = [main]
    if values is not None:
        parts.append(values.get("services", {}))
        if values.get("registry") is not None:
            folder = main.parent / values.get("registry")
            watched.append(folder)
            for file in registry_files(folder, values.nodes["registry"]):
                watched.append(file)
                part = read_document(file, str(file), expander)
                documents.append(part)
                part_values = _read_root(part, REGISTRY_FILE, "`services:`")
                if part_values is not None:
                    parts.append(part_values.get("services", {}))
    drafts = join(parts)
    if values is not None:
        sidecar.add_services(values, drafts)
    config = None if values is None else _build(values, drafts, expander)
    problems = _in_order(documents, expander.secrets)
    for document in documents:
        document.root = (
            None  # a node refers to its document: without this, the tree would wait for the collector
        )
    return config, tuple(dict.fromkeys([*watched, *expander.files])), problems


def registry_files(folder: Path, node: Node | None = None) -> list[Path]:
    """The registry's files in name order; a folder that cannot be read is reported at `node`."""
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        if node is not None:
            what = {
                FileNotFoundError: "does not exist",
                NotADirectoryError: "is not a folder",
                PermissionError: "cannot be read: permission denied",
            }.get(type(error), f"cannot be read: {error.strerror}")
            advice = "create it, or remove `registry`" if isinstance(error, FileNotFoundError) else None
            problem(node, f"the registry folder `{folder}` {what}", advice)
        return []
    chosen = [name for name in names if name.endswith(REGISTRY_SUFFIXES) and not name.startswith(".")]
    return [file for name in chosen if not (file := folder / name).is_dir()]


def _read_root(document: Document, section: Any, example: str) -> Values | None:
    root = document.root
    if root is None or root.is_null:
        if not document.problems:
            document.report(-1, 0, "the file is empty", f"write {example}")
        return None
    values = section.read(root, "the file")
    return None if values is INVALID else values


def _in_order(documents: Iterable[Document], secrets: Iterable[str]) -> tuple[Problem, ...]:
    """The problems of all documents, each once, in the order of files and lines, with secrets masked."""
    found: list[Problem] = []
    for document in documents:
        found.extend(sorted(document.problems, key=lambda item: (item.line, item.column)))
    for secret in sorted({text for text in secrets if text}, key=len, reverse=True):
        found = [_masked(problem, secret) if secret in str(problem) else problem for problem in found]
    return tuple(dict.fromkeys(found))


def _masked(problem: Problem, secret: str) -> Problem:
    """`problem` without the text that a `${file:…}` brought in."""
    suggestion = problem.suggestion and problem.suggestion.replace(secret, "***")
    return structs.replace(problem, message=problem.message.replace(secret, "***"), suggestion=suggestion)


def _build(values: Values, drafts: dict[str, Draft], expander: Expander) -> Config:
    get = values.get
    inherited = Inherited(get("defaults"))
    services: dict[str, Service] = {name: build_service(draft, inherited) for name, draft in drafts.items()}
    admin = _admin(values)
    trusted = tuple(dict.fromkeys([network for _, network in get("trusted_proxies", ())]))
    listeners = _listeners(values, drafts, admin, trusted, services)
    access_log = get("access_log")
    secrets = dict.fromkeys([*expander.secrets, *([admin.token] if admin.token else [])])
    return Config(
        listeners=listeners,
        services=services,
        admin=admin,
        workers=get("workers"),
        registry=get("registry"),
        trusted_proxies=trusted,
        drain=sidecar.drain_of(_struct(Drain, get("drain")), values),
        access_log=None if access_log is None else _struct(AccessLog, access_log),
        log=_struct(Log, get("log")),
        limits=_struct(Limits, get("limits")),
        timeouts=inherited.timeouts,
        **{key: values.get(key) for key in ("ready_timeout",) if key in values.values},
        sidecar=sidecar.build_sidecar(get("sidecar")),
        secrets=Secrets(tuple([text for text in secrets if text])),
    )


def _struct(kind: Any, values: Values | None) -> Any:
    return kind() if values is None else kind(**values.values)


def _admin(values: Values) -> Admin:
    """`admin` is a bind's text, None for `off`, or a mapping."""
    if "admin" not in values.values:
        return Admin()
    value = values.get("admin")
    return Admin(**value.values) if isinstance(value, Values) else Admin(value)


def _listeners(
    values: Values,
    drafts: dict[str, Draft],
    admin: Admin,
    trusted: tuple[str, ...],
    services: dict[str, Service],
) -> dict[str, Listener]:
    binds = BindTable()
    if admin.bind is not None:
        binds.add(texts.parse_bind(admin.bind), "the admin API", None)
    listeners: dict[str, Listener] = {}
    if not values.has("listeners") and not values.has("sidecar"):
        problem(values.node, "the file needs `listeners`", "write listeners by name, or `sidecar`")
    for name, item in values.get("listeners", {}).items():
        if item.value is INVALID:
            continue
        for node, bind in item.value.get("bind", ()):
            binds.add(bind, f"listener `{name}`", node)
        listener = build_listener(name, item, drafts)
        if item.value.get("intercept"):
            for one in sidecar.intercepting_listeners(listener, item.value, drafts, services):
                _add(listeners, one, item.key, services)
            continue
        _add(listeners, listener, item.key, services)
        if listener.accept_proxy and not trusted:
            key = item.value.keys["accept_proxy"]
            key.doc.report(
                key.line,
                key.column,
                "`accept_proxy` believes the peers of `trusted_proxies`, and there are none",
                "add the address ranges that the PROXY protocol comes from",
                "warning",
            )
    for node, listener in sidecar.sidecar_listeners(values.get("sidecar"), drafts, services):
        for bind in listener.binds:
            binds.add(bind, f"listener `{listener.name}`", node)
        _add(listeners, listener, node, services)
    return listeners


def _add(
    listeners: dict[str, Listener], listener: Listener, node: Node, services: dict[str, Service]
) -> None:
    sidecar.check_passthrough(listener, services, node)
    if listener.name in listeners:
        problem(
            node,
            f"this makes a listener `{listener.name}`, and there is one of that name",
            "give the other one another name",
        )
        return
    listeners[listener.name] = listener
