"""napari with the real nnInteractive plugin, as a person uses it: connect, click, undo, next object.

    xvfb-run -a python tests/server/napari_plugin.py ADDRESS IMAGE.npy MASKS.npz PICTURE.png Z,Y,X z,y,x,sign [...]

IMAGE.npy is an array (z, y, x) with voxels of Z, Y, X mm. MASKS.npz gets the mask after every click ("mask_0", ...),
after an undo ("undone"), and after "next object" ("next"). test_napari.py runs it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from napari_nninteractive.widget_main import nnInteractiveWidget
from qtpy.QtWidgets import QApplication

SECONDS = 60


def wait(until: Callable[[], Any]) -> None:
    """Lets Qt work."""
    end = time.monotonic() + SECONDS
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {SECONDS} s in vain")
        QApplication.processEvents()
        time.sleep(0.02)


def main(address: str, image: str, result: str, picture: str, spacing: str, *clicks: str) -> None:
    array = np.load(image)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 720)
    viewer.add_image(array, name="image", scale=[float(mm) for mm in spacing.split(",")])
    widget = nnInteractiveWidget(viewer)
    viewer.window.add_dock_widget(widget, area="right")
    widget.mode_switch.buttons[1].click()
    widget.server_url_edit.setText(address)
    widget.image_selection.setCurrentText("image")
    widget.on_connect_toggle()
    wait(lambda: widget._remote_connected)
    widget.on_init()
    wait(lambda: widget.label_layer_name in viewer.layers and widget.session.target_buffer is not None)
    widget.interaction_button._uncheck()
    widget.interaction_button._check(0)  # points
    widget.on_interaction_selected()
    masks = {}
    for number, click in enumerate(clicks):
        *place, sign = click.split(",")
        widget.prompt_button._uncheck()
        widget.prompt_button._check(0 if sign == "+" else 1)
        widget.on_prompt_selected()
        viewer.dims.set_current_step(0, int(place[0]))
        viewer.layers[widget.point_layer_name].add(np.array([float(c) for c in place]))
        QApplication.processEvents()
        masks[f"mask_{number}"] = widget.session.target_buffer.copy()
    wait(lambda: True)
    viewer.screenshot(picture, canvas_only=False)
    widget.on_undo()
    masks["undone"] = widget.session.target_buffer.copy()
    widget.on_next()
    masks["next"] = widget.session.target_buffer.copy()
    np.savez(result, **masks)
    widget._release_session()
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
