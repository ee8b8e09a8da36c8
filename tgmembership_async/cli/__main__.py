"""`python -m tgmembership_async.cli` runs the same command as `tgmembership`."""

from tgmembership_async.cli import main

if __name__ == "__main__":
    main()
