"""See ``campaign``."""

import sys

from hostile.campaign import main

sys.exit(main())
