"""`python -m sciml`, as torchrun wants it."""

from sciml.cli import main

if __name__ == "__main__":
    main()
