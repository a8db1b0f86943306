"""What the documents tell one to type exists, and the Makefile explains each of its targets."""

import re
import subprocess
from pathlib import Path

import pytest

from support.native_source import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
PROMISED = {
    *("run", "build", "test", "check", "lint", "bench", "bench-quick", "bench-endurance"),
    *("asan", "tsan", "ubsan", "fuzz", "help", "clean", "wheel"),
}


def targets() -> dict[str, str]:
    """Phony target -> its one line of explanation."""
    phony = set(" ".join(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)).split())
    explained = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", MAKEFILE, re.MULTILINE))
    return {name: explained.get(name, "") for name in phony}


def commands(document: Path) -> list[str]:
    """Each line of a shell block and each inline span of a document."""
    text = document.read_text()
    blocks = re.findall(r"```(?:sh|console|bash)\n(.*?)```", text, re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return lines + re.findall(r"`([^`\n]+)`", prose)


def test_the_promised_targets_exist() -> None:
    assert set(targets()) >= PROMISED


def test_each_target_is_explained() -> None:
    assert [name for name, text in targets().items() if not text and name != "test-packages"] == []


def test_help_lists_each_target() -> None:
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert [name for name, text in targets().items() if text and f"make {name} " not in shown] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_make_targets_exist(document: Path) -> None:
    named = {
        word
        for command in commands(document)
        for match in re.findall(r"(?:^|&& )make ((?:[a-zA-Z_]+=\S+ |-\S+ )*[a-z-]+)", command)
        for word in [match.split()[-1]]
    }
    assert named <= set(targets()), sorted(named - set(targets()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_files_exist(document: Path) -> None:
    """Links to files of this repository, and spans that look like a path in it."""
    text = document.read_text()
    linked = [
        (document.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in target and not target.startswith("#")
    ]
    folders = ("fastmesh", "src_ext", "tests", "docs", "bench", "tools", "examples", ".ci")
    for span in commands(document):
        for word in span.split():
            if re.fullmatch(rf"(?:{'|'.join(map(re.escape, folders))})/[\w./-]*\w/?", word):
                linked.append(ROOT / word)
    made = {ROOT / "bench/results"}  # by a run
    assert [str(path.relative_to(ROOT)) for path in linked if not path.exists() and path not in made] == []
