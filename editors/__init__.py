"""What editors need beside the language server: see docs/editors.md."""
