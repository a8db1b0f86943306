"""What the hot paths cost in instructions, counted under callgrind: exact where a clock only gives noise.

`python -m bench.instructions [--only NAME] [--out FILE] [--compare OLD.json]` counts all of it in half a
minute and prints a table. The parts:

* `cases`      the loops that are counted, and the program that runs them under valgrind
* `exchange`   one of them: whole requests through a worker
* `callgrind`  starts valgrind and reads what it wrote
* `table`      table, JSON, comparison

Instructions are not time: a miss of the cache counts as one, and what the kernel does does not count at all.
Counts of the same machine, compiler and libc compare; others do not, since libc chooses its functions by the
CPU.
"""
