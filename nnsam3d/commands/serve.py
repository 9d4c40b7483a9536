"""`nnsam3d serve`: serves a trained model to viewers and provides a page to click in."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import signal
import threading
from pathlib import Path

from nnsam3d.commands.model_choice import add_model_arguments, chosen_model
from nnsam3d.errors import UserError

LOCAL = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d serve`."""
    add_model_arguments(parser)
    files = parser.add_argument_group("files of the page")
    files.add_argument("--images", type=Path, metavar="FOLDER", help="folder of cases to segment, <case>_0000...")
    files.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="save cases here as an nnU-Net dataset: imagesTr, labelsTr, dataset.json",
    )
    how = parser.add_argument_group("server")
    how.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this computer only)"
    )
    how.add_argument("--port", type=int, default=1527, help="default: 1527; 0 for any free port")
    how.add_argument("--key", help="key that clients must send (default: none on this computer, otherwise generated)")
    how.add_argument("--max-sessions", type=int, default=8, metavar="N", help="maximum number of clients (default: 8)")
    how.add_argument(
        "--memory", type=float, default=8.0, metavar="GIB", help="memory for the images of all clients (default: 8)"
    )
    how.add_argument(
        "--max-image", type=float, default=2.0, metavar="GIB", help="maximum size of an image (default: 2)"
    )
    how.add_argument(
        "--idle", type=float, default=600.0, metavar="SECONDS", help="disconnect when idle for (default: 600)"
    )
    how.add_argument(
        "--liveness",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="disconnect when silent for (default: 60)",
    )
    how.add_argument(
        "--verbose",
        action="store_true",
        help="log every request, with its full path, which can contain patients' file names "
        "(default: clients, clicks and errors, without paths)",
    )
    how.add_argument("-device", default="auto", help="cuda, cpu, mps or cuda:N (default: cuda if there is one)")


def main(args: argparse.Namespace) -> int:
    """Serve until the command is stopped by Ctrl+C, or by SIGTERM, which finishes running requests first."""
    _check(args)
    folder = chosen_model(args)
    # imported late so that `nnsam3d serve --help` is fast
    from nnsam3d.inference.device import choose_device
    from nnsam3d.inference.model import Model
    from nnsam3d.server.app import App, Limits
    from nnsam3d.server.cases import Cases
    from nnsam3d.server.http import Server

    device = choose_device(args.device)
    model = Model(folder, args.folds, args.checkpoint, device, mirroring=False, trusted=args.trust_checkpoint)
    cases = None if args.images is None else Cases(args.images, model, args.output)
    gib = 2**30
    limits = Limits(
        args.max_sessions, args.idle, args.liveness, int(args.memory * gib), int(min(args.max_image, args.memory) * gib)
    )
    app = App(model, limits, cases)
    app.worker.submit(model.warm_up)
    local = args.host in LOCAL
    key = args.key or (None if local else secrets.token_urlsafe(16))
    try:
        server = Server((args.host, args.port), app, key, args.verbose)
    except OSError as error:
        raise UserError(
            f"{args.host}:{args.port}: cannot listen on this address ({error.strerror}); try --port 0"
        ) from error
    _print_addresses(model, str(device), server.server_address[1], args.host, key, local)

    def stop(*_: object) -> None:
        threading.Thread(target=server.close).start()
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the terminal may be gone
            print("nnsam3d: stopping when the running requests are finished", flush=True)

    signal.signal(signal.SIGTERM, stop)
    try:
        server.serve_forever(0.5)
    except KeyboardInterrupt:
        print("\nnnsam3d: stopping", flush=True)
        # not close(): serve_forever has already ended
        server.server_close()
    app.worker.close()
    return 0


def _print_addresses(model: object, device: str, port: int, host: str, key: str | None, local: bool) -> None:
    name = "127.0.0.1" if local else host
    address = f"http://{name}:{port}"
    print(f"nnsam3d: {model.folder.name}, fold {', '.join(model.folds)}, on {device}")  # type: ignore[attr-defined]
    print(f"nnsam3d: page      {address}/{'?key=' + key if key else ''}")
    print(f"nnsam3d: viewers   {address}    (3D Slicer, napari, MITK, ITK-SNAP; {address}/label/NAME selects a label)")
    if not local:
        print(f"nnsam3d: key       {key}")
        print("nnsam3d: warning: connections are not encrypted: use a trusted network or an SSH tunnel")
    print("nnsam3d: press Ctrl+C to stop", flush=True)


def _check(args: argparse.Namespace) -> None:
    if args.output is not None and args.images is None:
        raise UserError("--output requires --images: only cases of that folder are saved")
    if args.images is not None and not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    if args.images is not None and args.output is not None and args.output.resolve() == args.images.resolve():
        raise UserError("--output is the same folder as --images: choose another")
    if not 0 <= args.port < 2**16:
        raise UserError(f"--port {args.port}: must be between 0 and 65535")
    for name in ("max_sessions", "memory", "max_image", "idle", "liveness"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be greater than 0")
