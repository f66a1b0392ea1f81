"""What stands behind a score: counts by record, intervals, breakdowns, kinds of errors, comparisons. No jax."""
