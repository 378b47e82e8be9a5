"""Optional C kernels for operations that take torch many passes over memory on the CPU, compiled at first use."""
