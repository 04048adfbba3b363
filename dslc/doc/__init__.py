"""Documentation as data, and as Markdown and text: what `dslc doc` and the site show."""
