"""`python -m resnetlab` is the command line."""

from resnetlab.cli import entry_point

if __name__ == "__main__":
    entry_point()
