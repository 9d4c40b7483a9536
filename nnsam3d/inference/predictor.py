"""Who answers prompts on an image: one contract for every trained model.

A predictor prepares an image once and then answers any prompts on it. There are two ways: windows around the clicks,
with what the image says kept between clicks (:class:`PreparedImage`, for networks that keep features), and nnU-Net's
stock sliding window over the whole image (:class:`WholeImage`, for every other network, with prompts or without).

Letters: C image channels, P prompt channels, D H W voxels of the preprocessed image; results have the axes of nnU-Net's
reader (z, y, x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnsam3d.inference.image import PreparedImage
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import prompt_channels
from nnsam3d.prompts import CasePrompts
from nnsam3d.prompts.encoding import ENCODING


class Prepared(Protocol):
    """An image that is read and preprocessed, ready for any prompts."""

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """Label map (z, y, x), the network's own: prompts are not bound yet. The same prompts give the same one.

        Raises:
            PromptError: an unknown label, a prompt outside the image, or a kind that the network does not take.
        """


class Predictor(Protocol):
    """A trained model, or a control made of one."""

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Prepared:
        """An image as nnU-Net's reader gives it, with its properties."""


class WholeImage:
    """Preprocessed once, predicted with the stock sliding window for every set of prompts."""

    def __init__(self, model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> None:
        self.model = model
        self.shape_ZYX = tuple(int(n) for n in image_CZYX.shape[1:])
        self.data_CDHW, self.properties = model.preprocess(image_CZYX, dict(properties))
        self._automatic: NDArray[Any] | None = None

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """As :meth:`Prepared.answer`; a network without prompts gives every time what it gives without any."""
        if prompts is None or not prompts.prompts or not self.model.prompt_types:
            if self._automatic is None:
                self._automatic = self._segment(self.data_CDHW)
            return self._automatic.copy()
        shape = self.data_CDHW.shape[1:]
        channels = prompt_channels(
            prompts, self.model.labels, self.shape_ZYX, self.properties, self.model.plans_manager, shape
        )
        image_CDHW, _ = ENCODING.split(self.data_CDHW)
        return self._segment(np.concatenate([image_CDHW, channels]))

    def _segment(self, data_CDHW: NDArray[np.float32]) -> NDArray[Any]:
        logits = self.model.everywhere(np.ascontiguousarray(data_CDHW))
        return self.model.export(logits, self.properties)[0]


@dataclass(frozen=True)
class Trained:
    """A trained model as a :class:`Predictor`, in the way that its network allows.

    Attributes:
        cache_bytes: see :class:`PreparedImage`.
    """

    model: TrainedModel
    cache_bytes: int = 0

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> PreparedImage | WholeImage:
        """As :meth:`Predictor.prepare`."""
        if capability(self.model.trainer, "keeps_features"):
            return PreparedImage(self.model, image_CZYX, properties, self.cache_bytes)
        return WholeImage(self.model, image_CZYX, properties)
