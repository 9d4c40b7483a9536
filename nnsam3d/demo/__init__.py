"""`nnsam3d demo`: phantoms, nnU-Net's own commands on them, tables and pictures."""

EPOCHS = 24  # of the training; here, so that `nnsam3d demo --help` imports nothing else
