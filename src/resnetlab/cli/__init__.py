"""The command line: words to calls, printing, progress and signals."""
