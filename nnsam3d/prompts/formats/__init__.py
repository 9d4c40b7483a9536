"""The nnsam3d prompt format and those of other programs, one file each; :mod:`.detect` recognises them by content."""
