"""The compiled half: one package a floor, built from ``src_ext/fastmesh/_native``."""
