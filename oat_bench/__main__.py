"""``python -m oat_bench`` is ``oat-bench``."""

from oat_bench.cli import main

if __name__ == "__main__":
    main()
