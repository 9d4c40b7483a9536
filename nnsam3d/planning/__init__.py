"""From a dataset's fingerprint and a memory budget to plans: nnU-Net's self-configuration for this network."""
