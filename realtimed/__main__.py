"""`python -m realtimed`; the guard matters, since engine processes import this module again."""

from realtimed.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
