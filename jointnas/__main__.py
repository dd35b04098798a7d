"""`python -m jointnas`: the command line."""

from jointnas.cli import main

if __name__ == "__main__":
    main()
