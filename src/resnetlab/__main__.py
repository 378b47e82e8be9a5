"""`python -m resnetlab` is the command line."""

from resnetlab.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
