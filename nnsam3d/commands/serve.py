"""`nnsam3d serve`: serves a trained model to viewers and provides a page to click in."""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from nnsam3d.commands.learn import OWN, add_replay
from nnsam3d.commands.model_choice import add_labels_argument, add_model_arguments, chosen_model
from nnsam3d.errors import UserError

if TYPE_CHECKING:
    from nnsam3d.inference.model import Model

KEY_VARIABLE = "NNSAM3D_KEY"
PACKAGES = ("starlette", "uvicorn", "blosc2")
GIB = 2**30
DESCRIPTION = """
Serves a trained model, or the starter, until it is stopped, and prints its address. In a viewer, enter it
as the address of an nnInteractive server; in a browser, it opens a page for interactive segmentation. With
--images, the page lists the cases of a folder; with --output, it saves them as an nnU-Net dataset.
"""
EXAMPLE = """
nnsam3d serve                                        # the starter: any object, nothing trained
nnsam3d serve -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres
nnsam3d serve -d 513 -c 3d_fullres -f 0 --images imagesTs --output Dataset600_Clicked
nnsam3d serve --images imagesTs --new Dataset601_Nodes --labels tumour,node
nnsam3d serve -d 513 -c 3d_fullres --host 0.0.0.0    # network access: key required, not encrypted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d serve`."""
    add_model_arguments(parser)
    add_labels_argument(parser, "object")
    files = parser.add_argument_group("files of the page")
    files.add_argument("--images", type=Path, metavar="FOLDER", help="folder of cases to segment, <case>_0000...")
    files.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="save cases here as an nnU-Net dataset: imagesTr, labelsTr, dataset.json",
    )
    files.add_argument(
        "--learn",
        action="store_true",
        help="the model learns from every saved case, in the background (see nnsam3d learn); needs --output",
    )
    files.add_argument(
        "--next",
        choices=("list", "disagreement"),
        default="list",
        help="which case follows: the next one of the list, or, with --learn, that on which the model's answers to "
        "different clicks disagree most (default: list)",
    )
    files.add_argument(
        "--new",
        type=Path,
        metavar="FOLDER",
        help="begin a dataset with --labels and a model of its own, which grows out of the starter: --output and "
        "--learn in one",
    )
    add_replay(files)
    files.add_argument("--copy", action="store_true", help="copy images to --output (default: hard links)")
    how = parser.add_argument_group("server")
    how.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this computer only)"
    )
    how.add_argument("--port", type=int, default=1527, help="default: 1527; 0 for any free port")
    how.add_argument(
        "--key",
        help="key that clients must send; other users of this computer can see it, unlike --key-file (default: none on "
        "this computer, otherwise generated)",
    )
    how.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"file with the key (or set the variable {KEY_VARIABLE})"
    )
    how.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM), for https")
    how.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, if it is in another file")
    how.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which a proxy makes this server known, e.g. hub.example.org; may be repeated",
    )
    how.add_argument(
        "--prefix", default="", metavar="PATH", help="path that a proxy in front does not remove, e.g. /segment"
    )
    how.add_argument("--max-sessions", type=int, default=8, metavar="N", help="maximum number of clients (default: 8)")
    how.add_argument(
        "--memory",
        type=float,
        default=8.0,
        metavar="GIB",
        help="memory for uploads, images and results of all clients (default: 8)",
    )
    how.add_argument(
        "--max-image", type=float, default=2.0, metavar="GIB", help="maximum size of an image (default: 2)"
    )
    how.add_argument(
        "--idle", type=float, default=600.0, metavar="SECONDS", help="disconnect when idle for (default: 600)"
    )
    how.add_argument(
        "--liveness", type=float, default=60.0, metavar="SECONDS", help="disconnect when silent for (default: 60)"
    )
    how.add_argument(
        "--verbose",
        action="store_true",
        help="log every request, with its full path, which can contain patients' file names "
        "(default: clients, clicks and errors, without paths)",
    )
    how.add_argument("-device", default="auto", help="cuda, cpu, mps or cuda:N (default: cuda if there is one)")


def main(args: argparse.Namespace) -> int:
    """Serve until the command is stopped by Ctrl+C or SIGTERM, which finish running requests first."""
    if args.new is not None:
        _check_new(args)
        args.output, args.learn = args.new, True
    _check(args)
    folder = chosen_model(args)
    local_key = _key(args)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"nnsam3d serve needs {', '.join(missing)}: pip install '/path/to/nnsam3d[serve]'")
    # imported late so that `nnsam3d serve --help` is fast
    from nnsam3d.inference.device import choose_device
    from nnsam3d.inference.model import Model
    from nnsam3d.server.app import App, Limits
    from nnsam3d.server.cases import Cases
    from nnsam3d.server.http import Access, Server, is_local
    from nnsam3d.server.learner import Learner, newest
    from nnsam3d.server.temporary import own_temporary_folder

    device = choose_device(args.device)
    base = Model(
        *(folder, args.folds, args.checkpoint, device),
        mirroring=False,
        trusted=args.trust_checkpoint,
        objects=args.labels,
    )
    if args.images is not None:
        base.take_ending_of(args.images)
    own = None if not args.learn else args.output / OWN
    model = base if own is None else newest(base, own)
    learned = own if args.next == "disagreement" else None
    cases = None if args.images is None else Cases(args.images, model, args.output, args.copy, learned)
    limits = Limits(
        args.max_sessions, args.idle, args.liveness, int(args.memory * GIB), int(min(args.max_image, args.memory) * GIB)
    )
    reachable = not is_local(args.host) or bool(args.allow_host)
    key = local_key or (secrets.token_urlsafe(16) if reachable else None)
    access = Access(tuple(args.allow_host), _prefix(args.prefix), args.verbose)
    certificate = None if args.tls_cert is None else (args.tls_cert, args.tls_key)
    with own_temporary_folder():
        app = App(model, limits, cases, key)
        if own is not None:
            app.learner = Learner(_learning(args, folder, str(device)), own, lambda: app.take(newest(base, own)))
        try:
            server = Server((args.host, args.port), app, access, certificate)
        except ssl.SSLError as error:
            raise UserError(
                f"--tls-cert {args.tls_cert}: no valid certificate with its private key ({error})"
            ) from error
        except OSError as error:
            raise UserError(
                f"{args.host}:{args.port}: cannot listen on this address ({error.strerror or error}); try --port 0"
            ) from error
        app.worker.submit(model.warm_up)
        _print_addresses(model, str(device), server.port, args, key)
        try:
            server.serve_forever()
        finally:
            if app.learner is not None:
                app.learner.close()
    return 0


def _learning(args: argparse.Namespace, folder: Path, device: str) -> list[str]:
    """Options of `nnsam3d learn`."""
    options = ["-m", str(folder), "-chk", args.checkpoint, "--cases", str(args.output), "-device", device]
    options += [] if args.folds is None else ["-f", *args.folds]
    options += ["--trust_checkpoint"] if args.trust_checkpoint else []
    options += [] if args.new is None else ["--new"]
    options += [] if args.next == "list" else ["--next", str(args.images)]
    options += [] if args.replay is None else ["--replay", str(args.replay)]
    return options


def _key(args: argparse.Namespace) -> str | None:
    """The key that the user has set."""
    if args.key_file is None:
        return args.key or os.environ.get(KEY_VARIABLE) or None
    try:
        key: str = args.key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--key-file {args.key_file}: cannot be read ({error})") from error
    if not key:
        raise UserError(f"--key-file {args.key_file}: the file is empty")
    return key


def _prefix(given: str) -> str:
    path = given.strip("/")
    return f"/{path}" if path else ""


def _print_addresses(model: Model, device: str, port: int, args: argparse.Namespace, key: str | None) -> None:
    from nnsam3d.server.http import address_of, is_local
    from nnsam3d.server.static import FOLDER, LIBRARY

    address = address_of(args.host, port, args.tls_cert is not None, _prefix(args.prefix))
    print(f"nnsam3d: {model.folder.name}, fold {', '.join(model.folds)}, on {device}")
    print(f"nnsam3d: page      {address}/{'?key=' + quote(key, safe='') if key else ''}")
    print(f"nnsam3d: viewers   {address}    (3D Slicer, napari, MITK, ITK-SNAP; {address}/label/NAME selects a label)")
    if key:
        print(f"nnsam3d: key       {key}")
    if not (FOLDER / LIBRARY).is_file():
        print("nnsam3d: warning: this installation has viewers only: the page's address says how to add the page")
    if not is_local(args.host) and args.tls_cert is None:
        print("nnsam3d: warning: connections are not encrypted: use --tls-cert, a trusted network or an SSH tunnel")
    print("nnsam3d: press Ctrl+C to stop", flush=True)


def _check_new(args: argparse.Namespace) -> None:
    if args.output is not None:
        raise UserError("--new and --output: give only one of them; both are the dataset's folder")
    if not args.labels:
        raise UserError("--new requires --labels, the names of what is to be segmented: --labels tumour node")
    if args.images is None:
        raise UserError("--new requires --images, the folder with the cases to segment")


def _check(args: argparse.Namespace) -> None:
    if args.next == "disagreement" and not args.learn:
        raise UserError("--next disagreement requires --learn: the model that learns says which case is next")
    if args.replay is not None and not args.learn:
        raise UserError("--replay requires --learn: it says what the model that learns is trained on as well")
    if args.learn and args.output is None:
        raise UserError("--learn requires --output: the model learns from the cases that are saved there")
    if args.output is not None and args.images is None:
        raise UserError("--output requires --images: only cases of that folder are saved")
    if args.images is not None and not args.images.is_dir():
        raise UserError(f"--images {args.images}: no such folder")
    if args.images is not None and args.output is not None and args.output.resolve() == args.images.resolve():
        raise UserError("--output is the same folder as --images: choose another")
    if args.copy and args.output is None:
        raise UserError("--copy requires --output: it says how images are added to that dataset")
    if args.tls_key is not None and args.tls_cert is None:
        raise UserError("--tls-key requires --tls-cert, the certificate")
    for option in ("tls_cert", "tls_key"):
        if (file := getattr(args, option)) is not None and not file.is_file():
            raise UserError(f"--{option.replace('_', '-')} {file}: no such file")
    if args.key is not None and args.key_file is not None:
        raise UserError("--key and --key-file: give only one of them")
    if any(not name or "/" in name or ":" in name for name in args.allow_host):
        raise UserError(f"--allow-host {' '.join(args.allow_host)}: names only, e.g. hub.example.org")
    if not 0 <= args.port < 2**16:
        raise UserError(f"--port {args.port}: must be between 0 and 65535")
    for name in ("max_sessions", "memory", "max_image", "idle", "liveness"):
        if not getattr(args, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be greater than 0")
