"""Which layers to train: what pretrained features are worth on a data set, and the strategies that follow from it."""
