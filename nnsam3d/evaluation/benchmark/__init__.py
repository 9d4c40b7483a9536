"""`nnsam3d benchmark`: clicks against nnU-Net, with controls, on any nnU-Net dataset.

From the bottom up: ``metrics`` (one mask), ``protocols`` (one case, clicked), ``arms`` (who answers the clicks),
``jobs`` and ``runner`` (all of it, resumable), ``statistics`` and ``summary`` (what it says), ``figures`` and
``report`` (how it looks), ``command``.
"""
