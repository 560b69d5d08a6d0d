"""Edge: `python -m ci_flame` is `ci-flame`, of the interpreter that is named."""

from ci_flame.cli import main

if __name__ == "__main__":
    main()
