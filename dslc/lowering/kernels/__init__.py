"""A group as TIR: scalar loops, or a template of `schedules/cpu` with what is fused into it."""
