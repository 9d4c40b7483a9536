"""`nnsam3d serve`: trained models for viewers, over HTTP. Nothing but this package and its command knows of HTTP.

A request goes one way: :mod:`http` reads and checks it, a family of routes (:mod:`nninteractive`, :mod:`itksnap`,
:mod:`page`) understands it, :mod:`leases` finds the client's conversation (:mod:`conversation`, above a
:class:`nnsam3d.inference.Session`), and the one :mod:`worker` of the model computes.
"""
