"""Lets `python -m ftdoctor` do what `ftdoctor` does."""

from ftdoctor.cli import main

if __name__ == "__main__":
    main()
