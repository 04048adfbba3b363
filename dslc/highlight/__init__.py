"""Colours for `.dl` text where there is no compiler: editors, web pages, notebooks."""
