"""CPU templates: register-tiled contractions and vector mathematics, as TIR."""
