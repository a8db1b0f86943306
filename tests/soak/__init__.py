"""The soak run: mixed traffic, faults and changes through a real `fastmesh run` for an hour, and a verdict.

`make soak` runs it, `python -m tests.soak --for 3m` for a shorter time. `world.py` starts the processes and
knows what is done to them, `command.py` when; `course.py` is the configuration and how it changes;
`soak_load.c` sends all traffic and checks every byte, against `soak_origin.c`; `samples.py` reads memory
and descriptors, `verdict.py` judges, `table.py` shows it live.
"""
