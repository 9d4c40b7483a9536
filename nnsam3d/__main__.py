"""`python -m nnsam3d`, the same as `nnsam3d`."""

import sys

from nnsam3d.cli import main

sys.exit(main())
