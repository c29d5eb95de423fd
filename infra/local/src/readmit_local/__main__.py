"""`python -m readmit_local` is `readmit`."""

from readmit_local.cli import main

if __name__ == "__main__":
    main()
