"""`python -m vlprobe` is `vlprobe`."""

from vlprobe.cli import main

if __name__ == "__main__":
    main()
