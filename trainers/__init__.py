"""nnU-Net trainers; installed as `nnsam3d.trainers`.

The files only re-export classes that nnU-Net finds by name; the implementation is in `nnsam3d`. With
`nnUNet_extTrainer`, nnU-Net imports these files as top-level modules and removes them again, so they use absolute
imports, and each file is named after its class: `nnsam3d link` writes `from nnsam3d.trainers.<class> import <class>`.
"""
