"""Text to syntax tree: nodes in ast.py, grammar in grammar/dl.lark, `parse` in parser.py."""
