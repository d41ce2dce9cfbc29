"""``python -m kubetune.cli`` is the ``kubetune`` command."""

from kubetune.cli import main

if __name__ == "__main__":
    main(prog_name="kubetune")
