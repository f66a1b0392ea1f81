"""SeqIO tasks and mixtures. Importing registers, reads and downloads nothing: `tasks.register` does, for one mixture.

This package imports TensorFlow; training and decoding never import it. They start `python -m tasks.build` instead.
"""

from tasks.mixtures import register

__all__ = ["register"]
