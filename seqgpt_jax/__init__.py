"""SeqGPT in JAX."""
