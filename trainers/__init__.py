"""nnU-Net trainers; installed as `nnsam3d.trainers`.

Thin on purpose: a file here holds a class that nnU-Net finds by its bare name, and everything that does
work, is pickled or is compared lives in `nnsam3d`. With `nnUNet_extTrainer` nnU-Net imports these files as
top-level modules and forgets them again, so they use absolute imports only, and each public trainer stands
in a module that `nnsam3d link` can name: `from nnsam3d.trainers.<module> import <class>`.
"""
