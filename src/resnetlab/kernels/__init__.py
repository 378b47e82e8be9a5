"""Kernels in C for what torch does in many passes over memory on the CPU; optional, compiled where they are used."""
