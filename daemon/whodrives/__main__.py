"""Where the program starts: `whodrives`, and `python -m whodrives`."""

import sys


def main() -> int:
    """Run one command; returns the exit code."""
    try:
        from whodrives.cli import main  # noqa: PLC0415 (it takes a second, in which Ctrl-C may come)
    except KeyboardInterrupt:
        return 130
    except (ImportError, OSError) as error:
        print(f"whodrives: a library is missing: {error}; install it again", file=sys.stderr)  # noqa: T201
        return 1
    return main.main()


if __name__ == "__main__":
    sys.exit(main())
