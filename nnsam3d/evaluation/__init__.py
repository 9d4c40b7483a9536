"""The demo: a phantom set, nnU-Net's commands on it, a table and pictures."""
