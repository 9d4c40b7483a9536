"""Click-promptable 3D segmentation (3DSAM-adapter) through nnU-Net's own commands.

Importing this package is cheap: it loads neither torch nor numpy. Import the part that you need:
`nnsam3d.network`, `nnsam3d.prompts`, `nnsam3d.training`, …
"""

__version__ = "0.1.0"
