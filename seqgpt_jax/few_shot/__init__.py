"""CrossFit's few-shot protocol (Ye et al. 2021, arXiv 2104.08835): does training on some tasks help to learn others?

partitions.py   which datasets are trained on upstream, and which are then learnt from few examples
sampling.py     five samples of a dataset's train split, each halved into train and validation
protocol.py     tuning each model on each sample, one result file each
gains.py        scores with upstream training beside those without
report.py       the table
"""
