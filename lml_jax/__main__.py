"""`python -m lml_jax`: the command line."""

from lml_jax.cli import main

if __name__ == "__main__":
    main()
