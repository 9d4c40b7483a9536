"""Learning while annotating: a model is tuned, in short trainings, on the cases that a person has finished.

A round (:func:`nnsam3d.learning.learn.learn`) prepares new cases, trains for a bounded time, and keeps the new weights
only if held-back cases do not get worse. ``nnsam3d learn`` runs a round, ``nnsam3d serve --learn`` one after each saved
case.
"""
