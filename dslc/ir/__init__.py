"""The intermediate representation: flat, typed, immutable, first-order."""
