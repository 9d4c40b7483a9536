"""`nnsam3d demo`: phantoms, nnU-Net's own commands on them, tables and pictures."""
