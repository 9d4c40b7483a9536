"""One method for everything that a person can draw. Each makes a prompt, and :meth:`Drawing.add` takes it."""

from __future__ import annotations

from collections.abc import Sequence

from nnsam3d.prompts import Box, Click, Lasso, Line, Prompt, Scribble
from nnsam3d.prompts.kinds.checks import checked_position, checked_positions


class Drawing:
    """What takes prompts, one step after the other: :class:`nnsam3d.inference.Session`."""

    def add(self, prompts: Sequence[Prompt], space: str = "voxel") -> None:
        """Prompts of any kind, which are one step."""
        raise NotImplementedError

    def add_click(self, position: Sequence[float], label: int | str, space: str = "voxel") -> None:
        """One more click.

        Args:
            position: index i, j, k (x, y, z) of the image for "voxel"; mm for "lps" and "ras"; z, y, x for "array".
            label: name or number of dataset.json; "background" or 0 says "this is not it".
            space: of the position: "voxel", "lps", "ras" or "array".

        Raises:
            PromptError: a position outside the image or an unknown label; the session stays as it was.
        """
        self.add([Click(checked_position(position), label)], space)

    def add_clicks(self, positions: Sequence[Sequence[float]], label: int | str, space: str = "voxel") -> None:
        """Several clicks of one label, which are one step; without any, there is no step.

        Args:
            positions, label, space: as for :meth:`add_click`.

        Raises:
            PromptError: as for :meth:`add_click`; none of them is added.
        """
        self.add([Click(checked_position(position), label) for position in positions], space)

    def add_box(self, low: Sequence[float], high: Sequence[float], label: int | str, space: str = "voxel") -> None:
        """A box around the target: two opposite corners, see :class:`nnsam3d.prompts.Box`.

        With equal values along one axis it is a rectangle on one slice. Other arguments and errors as for
        :meth:`add_click`; also if the model was not trained with boxes.

        Args:
            low, high: opposite corners, in any order; positions as for :meth:`add_click`.
            label, space: as for :meth:`add_click`.
        """
        self.add([Box(checked_position(low), checked_position(high), label)], space)

    def add_line(self, start: Sequence[float], end: Sequence[float], label: int | str, space: str = "voxel") -> None:
        """A line across the target, from border to border; arguments and errors as for :meth:`add_box`.

        Args:
            start, end: positions as for :meth:`add_click`.
            label, space: as for :meth:`add_click`.
        """
        self.add([Line(checked_position(start), checked_position(end), label)], space)

    def add_scribble(
        self, points: Sequence[Sequence[float]], label: int | str, space: str = "voxel", joined: bool = True
    ) -> None:
        """A curve in the target, or single voxels (``joined=False``); arguments and errors as for :meth:`add_box`.

        Args:
            points: at least one position, as for :meth:`add_click`.
            label, space: as for :meth:`add_click`.
            joined: True: a curve through the points in their order; False: the points alone.
        """
        self.add([Scribble(checked_positions(points, 1), label, joined)], space)

    def add_lasso(self, points: Sequence[Sequence[float]], label: int | str, space: str = "voxel") -> None:
        """A closed curve around the target on one slice; arguments and errors as for :meth:`add_box`.

        Args:
            points: at least three positions, as for :meth:`add_click`; the last one is joined with the first.
            label, space: as for :meth:`add_click`.
        """
        self.add([Lasso(checked_positions(points, 3), label)], space)
