"""What the benchmark asks of all trained models: prepare an image once, then answer any prompts on it.

There are two implementations: windows around the clicks (:class:`PreparedImage`, for networks that keep image features
between clicks), and nnU-Net's sliding window over the whole image (:class:`WholeImage`, for all other networks, with or
without prompts).

Letters: C image channels, P prompt channels, D H W voxels of the preprocessed image; results have the axes of nnU-Net's
reader (z, y, x).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nnsam3d.inference.image import PreparedImage, network_mask
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import network_prompts
from nnsam3d.prompts import CasePrompts


class Prepared(Protocol):
    """An image that is ready for prompts."""

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """The network's label map (z, y, x), before binding; deterministic.

        Raises:
            PromptError: an unknown label, a prompt outside the image, or an unsupported type.
        """


class WholeImage:
    """Preprocessed once, predicted with the sliding window for every set of prompts."""

    def __init__(self, model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> None:
        """
        Args:
            model: whose networks are used.
            image_CZYX: as returned by nnU-Net's reader.
            properties: returned with it; copied.
        """
        self.model = model
        self.shape_ZYX = tuple(int(n) for n in image_CZYX.shape[1:])
        self.data_CDHW, self.properties = model.preprocess(image_CZYX, dict(properties))
        self._automatic: NDArray[Any] | None = None

    def answer(self, prompts: CasePrompts | None, mask_ZYX: NDArray[Any] | None = None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`; networks without prompts always segment automatically.

        Args:
            mask_ZYX: a label map on the image's grid that the network corrects, if it was trained with masks.
        """
        if prompts is None or not prompts.prompts or not self.model.prompt_types:
            if self._automatic is None:
                self._automatic = self._segment(self.data_CDHW)
            return self._automatic.copy()
        shape, model = self.data_CDHW.shape[1:], self.model
        placed = network_prompts(
            prompts, model.labels, self.shape_ZYX, self.properties, model.plans_manager, shape, model.codec
        )
        if mask_ZYX is not None and "mask" in model.codec.kinds:
            placed = replace(placed, mask=network_mask(mask_ZYX, model, self.properties, shape))
        channels = model.codec.write(shape, placed, lean=True)
        return self._segment(np.concatenate([self.data_CDHW[: model.num_channels], channels]))

    def _segment(self, data_CDHW: NDArray[np.float32]) -> NDArray[Any]:
        logits = self.model.everywhere(np.ascontiguousarray(data_CDHW))
        return self.model.export(logits, self.properties)[0]


def prepared_image(
    model: TrainedModel, image_CZYX: NDArray[Any], properties: dict[str, Any], cache_bytes: int
) -> PreparedImage | WholeImage:
    """An image as returned by nnU-Net's reader, prepared in the way that the model's network supports.

    Args:
        model: whose networks are used.
        image_CZYX: as returned by nnU-Net's reader.
        properties: returned with it.
        cache_bytes: see :class:`PreparedImage`.
    """
    if capability(model.trainer, "keeps_features"):
        return PreparedImage(model, image_CZYX, properties, cache_bytes)
    return WholeImage(model, image_CZYX, properties)
