"""`python -m mcp_audit` is the same as the `mcp-audit` script."""

import sys

from mcp_audit.cli import main

sys.exit(main())
