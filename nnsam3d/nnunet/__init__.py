"""The only place that knows how nnsam3d registers with nnU-Net: `link` does it, `doctor` checks it.

Nothing here imports torch or nnunetv2 at module level: `nnsam3d link` answers at once.
"""
