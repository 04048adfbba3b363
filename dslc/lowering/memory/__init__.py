"""Where values lie: in arguments, results or the arena."""
