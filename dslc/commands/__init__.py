"""The commands of `dslc`: one module each, with `arguments(parser)` and `run(args)`."""
