"""The adapter to nnU-Net: its datasets and cases, reading, preprocessing, trained models, commands and registration.

`link` and `doctor` import neither torch nor nnunetv2 at module level: `nnsam3d link` answers at once.
"""
