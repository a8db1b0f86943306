"""The marks for counting instructions, for loops of Python."""
from fastmesh._native.sys.count cimport fm_count_begin, fm_count_end


def begin():
    fm_count_begin()


def end():
    fm_count_end()
