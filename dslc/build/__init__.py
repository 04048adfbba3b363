"""Programs to artifacts: compiles, links, packs."""
