"""`python -m tgmembership_async.cli` is `tgmembership`."""

from tgmembership_async.cli import main

if __name__ == "__main__":
    main()
