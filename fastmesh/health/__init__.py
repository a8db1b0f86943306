"""Whether endpoints answer: active checks, and endpoints whose answers are worse than their peers'."""

from fastmesh.health.checker import Checker, EndpointHealth, ServiceHealth
from fastmesh.health.checks import Result, run_check
from fastmesh.health.outliers import Counts, Detector, Outlier
from fastmesh.health.standing import Past

__all__ = [
    "Checker",
    "Counts",
    "Detector",
    "EndpointHealth",
    "Outlier",
    "Past",
    "Result",
    "ServiceHealth",
    "run_check",
]
