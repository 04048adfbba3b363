"""How contractions run on a GPU."""
