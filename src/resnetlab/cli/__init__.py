"""The command line: arguments, output, progress bars and signals."""
