"""How problems and errors read."""

from pathlib import Path

from fastmesh.errors import ConfigError, FastmeshError, Problem, StartError


def test_a_problem_with_a_place() -> None:
    problem = Problem(
        file="a.yaml", line=3, column=5, message="there is no `x`", suggestion="did you mean `y`?"
    )
    assert str(problem) == "a.yaml:3:5: there is no `x`; did you mean `y`?"


def test_a_warning_about_a_whole_file() -> None:
    problem = Problem(file="a.yaml", line=0, column=0, message="it is old", severity="warning")
    assert str(problem) == "a.yaml: warning: it is old"


def test_a_config_error_is_all_its_problems() -> None:
    problems = [Problem(file="a", line=line, column=1, message="m") for line in (1, 2)]
    error = ConfigError(iter(problems), [Path("a")])
    assert error.problems == tuple(problems)
    assert error.files == (Path("a"),)
    assert str(error) == "a:1:1: m\na:2:1: m"
    assert isinstance(error, FastmeshError)
    assert issubclass(StartError, FastmeshError)
