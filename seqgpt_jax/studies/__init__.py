"""Ablation studies: a grid of trainings and evaluations, run anywhere and in pieces, and the tables that come of it.

grid.py: what a study declares. jobs.py: the commands that make it. runner.py: running them. clusters.py: running them
on SLURM or Kubernetes. measures.py: numbers of finished cells, with intervals. tables.py and figures.py: the report.
"""
