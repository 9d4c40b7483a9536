"""`nnsam3d serve`: serves trained models to viewers over HTTP. All HTTP code is in this package and its command.

The path of a request: :mod:`http` reads and checks it, the routes of a protocol (:mod:`nninteractive`,
:mod:`itksnap`, :mod:`page`) parse it, :mod:`leases` finds the client's conversation (:mod:`conversation`, on top of a
:class:`nnsam3d.inference.Session`), and the model's single :mod:`worker` thread computes the result.
"""
