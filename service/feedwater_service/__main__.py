"""``python -m feedwater_service``."""

import sys

from feedwater_service.cli import main

sys.exit(main())
