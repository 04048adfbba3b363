"""The language server: what the compiler knows of a file, in an editor (`dslc lsp`)."""
