"""The only door to the native half: a validated configuration goes in, numbers come out.

`DataPlane` is what the supervisor drives. `compile` turns the model into the plain values that blocks are
built from, `numbering` gives names and endpoints their numbers, `sockets` opens the listening sockets, and
`reading` turns native counters into `Stats`.
"""

from fastmesh.engine.dataplane import ApplyResult, DataPlane

__all__ = ["ApplyResult", "DataPlane"]
